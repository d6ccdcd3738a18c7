"""A chunk: the searches of one flush, as the spool keeps them and as COPY takes them.

A search is stored in the binary format of PostgreSQL's COPY, but for what stands in every one of them (the number of
columns and the client id): in its place stands a mark of eight bytes that occurs nowhere else in the chunk. Bringing it
to the database is then one `bytes.replace` a chunk, instead of the most expensive part of the whole way.

    chunk:  mark, first minute, last minute, and for each search:
    search: mark, then length and value of timestamp (microseconds since 2000), ticket (length -1 for none), source,
            flags, username, query; all numbers big-endian, texts in UTF-8

A chunk carries a SHA-256 digest of what is stored, bound to its place: a flipped bit, or a chunk of another segment or
position, is found before it is sent. The database keeps the digest of the last chunk it took, so a spool that was
rolled back and went on differently is found too.
"""

import hashlib
import itertools
import json
import struct
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from collectors.search import Row
from collectors.spool_file import SpoolError

COPY_COLUMNS = ("client_id", "timestamp", "ticket", "source", "flags", "username", "query")

_COPY_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_COPY_TRAILER = b"\xff\xff"
_MINUTE_MS = 60_000
_POSTGRES_EPOCH_MS = 946_684_800_000  # 2000-01-01 UTC
_DIGEST_DOMAIN = b"soulseek-research chunk v1\0"

_MARK_BYTES = 8
_HEADER = struct.Struct(">qq")
_BODY_AT = _MARK_BYTES + _HEADER.size
_pack_with_ticket = struct.Struct(">iqiqihihi").pack
_pack_without_ticket = struct.Struct(">iqiihihi").pack
_LENGTH_BYTES = 4
_pack_length = struct.Struct(">i").pack
_TIME = struct.Struct(">4xqi")
_TICKET = struct.Struct(">q")
_REST = struct.Struct(">4xh4xhi")
_LARGEST = 2**63 - 1
_ANY_TEXT = ("utf-8", "surrogatepass")  # the database will refuse it, but only this one search

# The encoder is made once: json.dumps() with these settings would make one each time.
_encode = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":")).encode
_encode_ascii = json.JSONEncoder(check_circular=False, separators=(",", ":")).encode


class SpoolDamaged(SpoolError):  # noqa: N818
    """What is stored of a chunk is not what was written."""


@dataclass(frozen=True)
class Chunk:
    """One chunk as it lies in the spool; searches are decoded when asked for.

    Attributes:
        digest: SHA-256, as it was computed when the chunk was written; one that stands in for it where that is gone.
        row_count: Searches in it; of a damaged chunk what the spool still says, 0 where it says nothing.
        heard_until_ms: Unix time in milliseconds until when the chunk speaks; of a damaged one, a chunk near it.
        damage: What is wrong with it, in words, and then nothing of it can be read; None when it is whole.
    """

    segment_id: uuid.UUID
    position: int
    digest: bytes
    row_count: int
    heard_until_ms: int
    searches: bytes
    ledger_text: bytes
    damage: str | None = None

    @cached_property
    def ledger(self) -> Any:
        """What was given to `Spool.append`.

        Raises:
            SpoolDamaged: The chunk is not whole.
        """
        self._check_whole()
        return json.loads(self.ledger_text)

    @property
    def rows(self) -> list[Row]:
        """The searches as they were given to `Spool.append`.

        Raises:
            SpoolDamaged: The chunk is not whole.
        """
        self._check_whole()
        return decode_searches(self.searches)

    def copy_body(self, client_id: str) -> bytes:
        """The searches as `copy_data` takes them.

        Raises:
            SpoolDamaged: The chunk is not whole.
        """
        self._check_whole()
        mark, body = self.searches[:_MARK_BYTES], self.searches[_BODY_AT:]
        if body.count(mark) != self.row_count or not body.startswith(mark * min(self.row_count, 1)):
            raise SpoolDamaged(f"chunk {self.position} of segment {self.segment_id} is not of this version's format")
        return body.replace(mark, _beginning(client_id)) if self.row_count else b""

    def copy_rows(self) -> list[bytes]:
        """The searches one by one, as `copy_body_of` takes them.

        Raises:
            SpoolDamaged: The chunk is not whole.
        """
        self._check_whole()
        return _split(self.searches)

    def per_minute(self) -> dict[int, int]:
        """How many searches arrived in each minute, by minutes since 1970.

        Raises:
            SpoolDamaged: The chunk is not whole.
        """
        self._check_whole()
        first, last = _HEADER.unpack_from(self.searches, _MARK_BYTES)
        if not self.row_count:
            return {}
        if first == last:
            return {first: self.row_count}
        return Counter(map(minute_of, _split(self.searches)))

    def _check_whole(self) -> None:
        if self.damage is not None:
            raise SpoolDamaged(f"chunk {self.position} of segment {self.segment_id} is damaged: {self.damage}")


def encode_searches(rows: Sequence[Row]) -> bytes:
    """Searches as a chunk stores them; what a column cannot hold is brought to the nearest that it can."""
    try:
        searches = [
            _pack_with_ticket(
                8, (time - _POSTGRES_EPOCH_MS) * 1000, 8, ticket, 2, source, 2, flags, len(name := username.encode())
            )
            + name
            + _pack_length(len(text := query.encode()))
            + text
            for time, ticket, source, flags, username, query in rows
        ]
        minutes = [row[0] // _MINUTE_MS for row in rows]
    except (struct.error, UnicodeEncodeError):
        searches = list(map(_encode_unusual, rows))
        minutes = list(map(minute_of, searches))
    header = _HEADER.pack(min(minutes, default=0), max(minutes, default=0))
    for mark in _marks():
        body = mark.join([b"", *searches])
        if body.count(mark) == len(searches):
            return mark + header + body
    raise AssertionError


def decode_searches(searches: bytes) -> list[Row]:
    """The inverse of `encode_searches`."""
    return list(map(_decode, _split(searches)))


def minute_of(search: bytes) -> int:
    """The minute in which a search of `Chunk.copy_rows` arrived, by minutes since 1970."""
    return int(_TIME.unpack_from(search)[0] // 1000 + _POSTGRES_EPOCH_MS) // _MINUTE_MS


def copy_body_of(searches: Iterable[bytes], client_id: str) -> bytes:
    """Searches of `Chunk.copy_rows`, as `copy_data` takes them."""
    beginning = _beginning(client_id)
    return beginning.join([b"", *searches])


def copy_data(bodies: Iterable[bytes]) -> bytes:
    """What `copy_to_table(columns=COPY_COLUMNS, format="binary")` sends."""
    return b"".join((_COPY_HEADER, *bodies, _COPY_TRAILER))


def _beginning(client_id: str) -> bytes:
    encoded = client_id.encode()
    return struct.pack(">hi", len(COPY_COLUMNS), len(encoded)) + encoded


def _marks() -> Iterator[bytes]:
    """Marks to choose from. Each begins with a byte that is not in its rest, so that no two places overlap."""
    for number in itertools.count():
        yield b"\xff" + hashlib.sha256(number.to_bytes(8, "big")).digest().replace(b"\xff", b"")[: _MARK_BYTES - 1]


def _split(searches: bytes) -> list[bytes]:
    return searches[_BODY_AT:].split(searches[:_MARK_BYTES])[1:]


def _encode_unusual(row: Row) -> bytes:
    """Whatever a search holds: no ticket, numbers that do not fit, text that is none."""
    time, ticket, source, flags, username, query = row
    microseconds = min(max((time - _POSTGRES_EPOCH_MS) * 1000, -_LARGEST), _LARGEST)
    if ticket is None or abs(ticket) > _LARGEST:
        numbers = _pack_without_ticket(8, microseconds, -1, 2, source, 2, flags, len(username.encode(*_ANY_TEXT)))
    else:
        numbers = _pack_with_ticket(8, microseconds, 8, ticket, 2, source, 2, flags, len(username.encode(*_ANY_TEXT)))
    text = query.encode(*_ANY_TEXT)
    return numbers + username.encode(*_ANY_TEXT) + _pack_length(len(text)) + text


def _decode(search: bytes) -> Row:
    microseconds, ticket_length = _TIME.unpack_from(search)
    at, ticket = _TIME.size, None
    if ticket_length > 0:
        (ticket,) = _TICKET.unpack_from(search, at)
        at += ticket_length
    source, flags, length = _REST.unpack_from(search, at)
    at += _REST.size
    username = search[at : at + length].decode(*_ANY_TEXT)
    query = search[at + length + _LENGTH_BYTES :].decode(*_ANY_TEXT)
    return microseconds // 1000 + _POSTGRES_EPOCH_MS, ticket, source, flags, username, query


def encode_json(value: Any) -> bytes:
    """JSON in UTF-8, in which NUL and lone surrogates are escaped."""
    try:
        return _encode(value).encode()
    except UnicodeEncodeError:
        return _encode_ascii(value).encode()


def digest_of(
    segment_id: uuid.UUID, position: int, *, row_count: int, heard_until_ms: int, searches: bytes, ledger_text: bytes
) -> bytes:
    """SHA-256 of a chunk's place and its stored bytes."""
    numbers = (position, row_count, heard_until_ms, len(searches), len(ledger_text))
    digest = hashlib.sha256(_DIGEST_DOMAIN + segment_id.bytes)
    digest.update(b"".join(number.to_bytes(8, "big", signed=True) for number in numbers))
    digest.update(searches)
    digest.update(ledger_text)
    return digest.digest()
