import struct

import pytest
from aioslsk.protocol import messages
from hypothesis import given
from hypothesis import strategies as st

from collectors import frames
from collectors.search import Flag

TICKETS = st.integers(0, 2**32 - 1)
TEXTS = st.text()
KIB = 1024


def framed(body: bytes) -> bytes:
    return struct.pack("<I", len(body)) + body


def string(raw: bytes) -> bytes:
    return struct.pack("<I", len(raw)) + raw


def search_body(username: bytes, ticket: int, query: bytes) -> bytes:
    return struct.pack("<BI", 3, 0x31) + string(username) + struct.pack("<I", ticket) + string(query)


def cut_in_pieces(cutter: frames.Cutter, stream: bytes, data: st.DataObject) -> list[bytes]:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    return [frame for piece in pieces for frame in cutter.cut(piece)]


@given(TEXTS, TICKETS, TEXTS)
def test_a_distributed_search_reads_as_aioslsk_wrote_it(username: str, ticket: int, query: str) -> None:
    frame = messages.DistributedSearchRequest.Request(0x31, username, ticket, query).serialize()
    assert frames.distributed_code(frame) == frames.DISTRIBUTED_SEARCH
    assert frames.parse_distributed(frame) == (username, ticket, query, 0)


@given(TEXTS, TICKETS, TEXTS)
def test_a_search_aimed_at_us_reads_as_aioslsk_wrote_it(username: str, ticket: int, query: str) -> None:
    frame = messages.FileSearch.Response(username, ticket, query).serialize()
    assert frames.server_code(frame) == frames.FILE_SEARCH
    assert frames.parse_addressed(frame) == (username, ticket, query, 0)


@given(TEXTS, TICKETS, TEXTS)
def test_the_servers_message_holds_what_children_are_sent(username: str, ticket: int, query: str) -> None:
    frame = messages.ServerSearchRequest.Response(3, 0x31, username, ticket, query).serialize()
    assert frames.server_code(frame) == frames.EMBEDDED
    inner = frames.inner_of_server(frame)
    assert inner == messages.DistributedSearchRequest.Request(0x31, username, ticket, query).serialize()


@given(TEXTS, TICKETS, TEXTS)
def test_an_embedded_message_may_have_a_code_of_four_bytes_or_of_one(username: str, ticket: int, query: str) -> None:
    wanted = messages.DistributedSearchRequest.Request(0x31, username, ticket, query).serialize()
    by_soulseekqt = messages.DistributedServerSearchRequest.Request(3, 0x31, username, ticket, query).serialize()
    by_nicotine = framed(b"\x5d" + wanted[4:])
    for frame in (by_soulseekqt, by_nicotine):
        assert frames.distributed_code(frame) == frames.EMBEDDED
        assert frames.inner_of_distributed(frame) == wanted


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("café".encode(), "café"),
        ("café".encode("cp1252"), "café"),
        (b"\x81\x8d", "\x81\x8d"),  # cp1252 has no such bytes: aioslsk loses the whole search here
        (b"\xed\xa0\x80", "í\xa0€"),  # a surrogate is not UTF-8
    ],
)
def test_a_string_is_utf8_or_else_windows_1252_or_else_latin_1(raw: bytes, text: str) -> None:
    utf8 = raw == text.encode()
    parsed = frames.parse_distributed(framed(search_body(b"somebody", 7, raw)))
    assert parsed == ("somebody", 7, text, 0 if utf8 else Flag.NOT_UTF8)
    parsed = frames.parse_distributed(framed(search_body(raw, 7, b"something")))
    assert parsed == (text, 7, "something", 0 if utf8 else Flag.NOT_UTF8)


@given(st.binary(), TICKETS, st.binary())
def test_no_bytes_of_name_or_query_lose_a_search(username: bytes, ticket: int, query: bytes) -> None:
    parsed = frames.parse_distributed(framed(search_body(username, ticket, query)))
    assert parsed is not None
    assert parsed[1] == ticket


@given(st.binary(max_size=64))
def test_no_frame_raises(body: bytes) -> None:
    for frame in (body, framed(body)):
        frames.distributed_code(frame)
        frames.server_code(frame)
        frames.parse_distributed(frame)
        frames.parse_addressed(frame)
        frames.parse_distributed(frames.inner_of_distributed(frame))
        frames.parse_distributed(frames.inner_of_server(frame))


@given(st.integers(0, 60))
def test_a_search_cut_short_is_unreadable(length: int) -> None:
    body = search_body(b"somebody", 7, b"a query of some words and then some")
    assert (frames.parse_distributed(framed(body[:length])) is None) == (length < len(body))


def test_bytes_after_the_query_are_no_harm() -> None:
    assert frames.parse_distributed(framed(search_body(b"somebody", 7, b"a query") + b"??")) is not None


@given(st.lists(st.binary(max_size=40)), st.data())
def test_a_stream_is_cut_into_its_frames_however_it_comes(bodies: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(map(framed, bodies))
    cutter = frames.Cutter(KIB, KIB)
    found = cut_in_pieces(cutter, stream, data)
    assert found == list(map(framed, bodies))
    assert (cutter.oversized, cutter.ended) == (0, False)


@given(st.lists(st.integers(0, 60), max_size=12), st.data())
def test_too_long_frames_are_skipped_and_counted_however_they_come(lengths: list[int], data: st.DataObject) -> None:
    taken, skipped = 30, 100
    bodies = [bytes([index]) * length for index, length in enumerate(lengths)]
    stream = b"".join(map(framed, bodies))
    cutter = frames.Cutter(taken, skipped)
    found = cut_in_pieces(cutter, stream, data)
    assert found == [framed(body) for body in bodies if len(framed(body)) <= taken]
    assert cutter.oversized == len(bodies) - len(found)
    assert not cutter.ended


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=5))
def test_any_stream_is_cut_without_raising_or_keeping_more_than_a_frame(stream: bytes, cuts: list[int]) -> None:
    cutter = frames.Cutter(32, 64)
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(stream)], strict=False):
        cutter.cut(stream[start:end])
        assert len(cutter._rest) <= 32


def test_nothing_is_cut_after_a_frame_beyond_belief() -> None:
    cutter = frames.Cutter(32, 64)
    good = framed(b"good")
    assert cutter.cut(good + struct.pack("<I", 2**32 - 1) + good) == [good]
    assert cutter.ended
    assert cutter.oversized == 1
    assert cutter.cut(good) == []
