"""What the simulation packs by hand is byte for byte what aioslsk packs, and the feeder's blocks are such frames."""

import struct

import pytest
from aioslsk.protocol import messages
from hypothesis import given
from hypothesis import strategies as st

from soulseek_research.simulation import faults, frames, hostile, searchers
from soulseek_research.simulation.feeder import Block

TEXT = st.text(st.characters(codec="utf-8"), max_size=60)
TICKET = st.integers(0, 2**32 - 1)


@given(TEXT, TICKET, TEXT)
def test_search_frames_equal_aioslsks(username: str, ticket: int, query: str) -> None:
    name, raw = username.encode(), query.encode()
    fields = {"unknown": 0x31, "username": username, "ticket": ticket, "query": query}
    expected = {
        "parent": messages.DistributedSearchRequest.Request(**fields),
        "embedded": messages.DistributedServerSearchRequest.Request(distributed_code=3, **fields),
        "server": messages.ServerSearchRequest.Response(distributed_code=3, **fields),
        "addressed": messages.FileSearch.Response(username, ticket, query),
    }
    for via, message in expected.items():
        assert frames.PACKERS[via](name, ticket, raw) == message.serialize()


@given(TEXT, TICKET, TEXT)
def test_the_short_embedded_frame_is_the_long_one_with_one_byte_of_code(name: str, ticket: int, query: str) -> None:
    long = frames.embedded(name.encode(), ticket, query.encode())
    short = frames.embedded_short(name.encode(), ticket, query.encode())
    assert struct.unpack("<I", short[:4])[0] == len(short) - 4
    assert short[4:] == long[4:5] + long[8:]


@pytest.mark.parametrize("via", list(frames.PACKERS))
def test_a_ticket_is_found_where_it_stands(via: str) -> None:
    frame = frames.PACKERS[via]("ünï".encode(), 0xA1B2C3D4, b"query")
    offset = frames.ticket_offset(via, "ünï".encode())
    assert struct.unpack_from("<I", frame, offset)[0] == 0xA1B2C3D4


@pytest.mark.parametrize("raw", hostile.QUERIES.values(), ids=hostile.QUERIES)
def test_any_bytes_can_be_sent(raw: bytes) -> None:
    frame = frames.distributed(b"someone", 7, raw)
    assert frame.endswith(struct.pack("<II", 7, len(raw)) + raw)
    try:
        message = messages.DistributedMessage.deserialize_request(frame)
    except UnicodeDecodeError:
        assert raw == hostile.QUERIES["undecodable"]
    else:
        assert message.query == frames.decode(raw)


@pytest.mark.parametrize("via", ["parent", "server"])
def test_malformed_frames_are_whole_but_cannot_be_read(via: str) -> None:
    decode = messages.DistributedMessage.deserialize_request
    if via == "server":
        decode = messages.ServerMessage.deserialize_response
    for what, frame in faults.malformed_frames(via).items():
        assert struct.unpack("<I", frame[:4])[0] == len(frame) - 4
        if what in ("unknown", "truncated", "empty"):
            with pytest.raises(Exception, match=r"nknown|expected string|unpack"):
                decode(frame)


def test_a_block_is_fed_again_and_again_with_new_tickets() -> None:
    block = Block(searchers.stream(1, 50, hostile_share=0.1), 100)
    data = b"".join(piece for _, piece in block.pieces(0, 250, 32))
    expected = [
        frames.distributed(
            search.username.encode(), number, search.query.encode() if search.raw is None else search.raw
        )
        for number, search in enumerate(block.searches * 3)
    ]
    assert data == b"".join(expected[:250])


@given(first=st.integers(0, 500), count=st.integers(0, 300), size=st.integers(1, 80))
def test_pieces_hold_exactly_what_was_asked_for(first: int, count: int, size: int) -> None:
    pieces = list(BLOCK.pieces(first, count, size))
    assert sum(number for number, _ in pieces) == count
    assert all(0 < number <= size for number, _ in pieces)
    whole = b"".join(piece for _, piece in BLOCK.pieces(0, first + count))
    assert whole.endswith(b"".join(piece for _, piece in pieces))


BLOCK = Block(searchers.stream(1, 10), 70)
