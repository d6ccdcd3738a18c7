"""Reading the spool: whole chunks in order, each checked, and a damaged one named instead of sent."""

import contextlib
import sqlite3
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from collectors import chunk
from collectors.chunk import Chunk
from collectors.spool_file import PAGE_BYTES, SpoolError, SpoolFile, SpoolFileDamaged, as_number, primary_code, sql

READ_CHUNKS = 1000
"""At most so many chunks are read at once, however few searches they hold."""
NEIGHBOURS = 20
"""So far around a damaged chunk another is looked for, to tell when it was."""
MOST_SEARCHES = 10_000_000
"""A damaged chunk that claims to hold more is not believed."""


class SegmentState(NamedTuple):
    """How far a segment has come. Chunks up to `pruned_position` are gone from the spool."""

    segment_id: uuid.UUID
    opened_at_ms: int
    last_position: int
    acknowledged_position: int
    database_id: uuid.UUID | None
    pruned_position: int


class Depth(NamedTuple):
    """What waits for the database; `bytes` is what the file uses, acknowledged chunks included."""

    chunks: int
    searches: int
    bytes: int
    oldest_ms: int | None


class SpoolReader:
    """A second connection to a spool: reads it and notes what the database has. For one thread at a time.

    Args:
        path: The file of a `Spool`, of this or another process.

    Raises:
        SpoolError: There is no spool, or this is none.
    """

    def __init__(self, path: Path) -> None:
        self._file = SpoolFile(path.resolve(), appends=False)

    @property
    def path(self) -> Path:
        """The spool's file."""
        return self._file.path

    def segments(self) -> list[SegmentState]:
        """All segments that the spool holds, in the order they were opened."""
        with self._file.transaction(read_only=True) as connection:
            return [_state(row) for row in connection.execute(sql("segments"))]

    def read(self, segment_id: uuid.UUID, after_position: int, max_rows: int) -> list[Chunk]:
        """Whole chunks in order, from the one after `after_position`, until together they hold `max_rows` or more.

        Each is checked against its digest. One that is damaged or missing comes in its place, with `damage` set.

        Raises:
            SpoolError: The segment is not here, or what is asked for was pruned.
        """
        with self._file.transaction(read_only=True) as connection:
            reading = self._reading(connection, segment_id)
            if after_position < (pruned := reading.pruned_position):
                raise SpoolError(f"segment {segment_id}: chunks {after_position + 1} to {pruned} were pruned")
            chunks: list[Chunk] = []
            rows = 0
            for one in reading.chunks(after_position + 1, min(reading.last_position, after_position + READ_CHUNKS)):
                chunks.append(one)
                rows += one.row_count
                if rows >= max_rows:
                    break
            return chunks

    def digest(self, segment_id: uuid.UUID, position: int) -> bytes | None:
        """The digest of the chunk at a position; None if it is not there, or pruned and not the last that was."""
        with self._file.transaction(read_only=True) as connection:
            reading = self._reading(connection, segment_id)
            if reading.pruned_position < position <= reading.last_position:
                return next(reading.chunks(position, position)).digest
            return reading.pruned_digest if position == reading.pruned_position else None

    def acknowledge(self, segment_id: uuid.UUID, position: int, database_id: uuid.UUID) -> None:
        """Note that the database has the chunks up to `position`: fewer than before when it has lost some since.

        Raises:
            SpoolError: There is no such chunk, or it was pruned.
        """
        now_ms = time.time_ns() // 1_000_000
        with self._file.transaction(read_only=True) as connection:
            reading = self._reading(connection, segment_id)
        number = reading.number
        _, searches_until = self._end_of(number, position)
        with self._file.transaction() as connection:
            updated = connection.execute(
                sql("acknowledge"),
                {
                    "segment": number,
                    "position": position,
                    "searches_until": searches_until,
                    "database_id": str(database_id),
                    "now_ms": now_ms,
                },
            ).rowcount
            if not updated:
                raise SpoolError(f"segment {segment_id}: there is no chunk {position}, or it was pruned")
            if position > reading.acknowledged_position:
                connection.execute("INSERT INTO acknowledgements VALUES (?, ?, ?)", (number, now_ms, position))
            elif position < reading.acknowledged_position:
                connection.execute(
                    "DELETE FROM acknowledgements WHERE segment = ? AND position > ?", (number, position)
                )

    def depth(self) -> Depth:
        """How much waits for the database."""
        with self._file.transaction(read_only=True) as connection:
            chunks, searches = connection.execute(sql("depth")).fetchone()
            used = used_bytes(connection)
        oldest = self._try_chunk(sql("oldest"))
        return Depth(chunks, searches, used, oldest[0] if oldest else None)

    def remember(self, name: str, value: str) -> None:
        """Keep a small fact."""
        with self._file.transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def recall(self, name: str) -> str | None:
        """A fact that was kept, or None."""
        with self._file.transaction(read_only=True) as connection:
            found = connection.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
            return str(found[0]) if found else None

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _end_of(self, number: int, position: int) -> tuple[bytes | None, int | None]:
        """Digest and searches up to a chunk, as far as they can be read."""
        found = self._try_chunk(
            "SELECT digest, searches_until FROM chunks WHERE segment = ? AND position = ?", number, position
        )
        return (found[0], found[1]) if found else (None, None)

    def _try_chunk(self, query: str, *parameters: int) -> tuple[Any, ...] | None:
        """A row of a chunk, or None: a damaged page must not keep the others from being acknowledged and pruned."""
        try:
            with self._file.transaction(read_only=True) as connection:
                row: tuple[Any, ...] | None = connection.execute(query, parameters).fetchone()
                return row
        except SpoolFileDamaged:
            return None

    def _reading(self, connection: sqlite3.Connection, segment_id: uuid.UUID) -> "_Reading":
        found = connection.execute(
            "SELECT segment, opened_at_ms, last_position, acknowledged_position, pruned_position, pruned_digest "
            "FROM segments WHERE segment_id = ?",
            (str(segment_id),),
        ).fetchone()
        if found is None:
            raise SpoolError(f"spool {self.path}: no segment {segment_id}")
        number, opened, last, acknowledged, pruned = map(as_number, found[:5])
        return _Reading(connection, segment_id, number, opened, last, acknowledged, pruned, found[5])


def _state(row: Sequence[Any]) -> SegmentState:
    segment_id, database_id, *numbers = row
    opened, last, acknowledged, pruned = map(as_number, numbers)
    database = None if database_id is None else uuid.UUID(str(database_id))
    return SegmentState(uuid.UUID(str(segment_id)), opened, last, acknowledged, database, pruned)


def used_bytes(connection: sqlite3.Connection) -> int:
    """What the file uses of the disk, without the pages that are free in it."""
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    free = connection.execute("PRAGMA freelist_count").fetchone()[0]
    return int(pages - free) * PAGE_BYTES


class _Reading(NamedTuple):
    """A segment that is read within one transaction."""

    connection: sqlite3.Connection
    segment_id: uuid.UUID
    number: int
    opened_at_ms: int
    last_position: int
    acknowledged_position: int
    pruned_position: int
    pruned_digest: bytes | None

    def chunks(self, first: int, last: int) -> Iterator[Chunk]:
        position = first
        try:
            for found, *stored in self._select(first, last):
                for missing in range(position, found):
                    yield self._damaged(missing, "it is missing")
                yield self._checked(found, stored)
                position = found + 1
        except sqlite3.Error as error:
            if primary_code(error) != sqlite3.SQLITE_CORRUPT:
                raise
        # The last ones are missing, or SQLite lost its way on a damaged page: each is asked for by itself.
        for single in range(position, last + 1):
            yield self._single(single)

    def _single(self, position: int) -> Chunk:
        try:
            for _, *stored in self._select(position, position):
                return self._checked(position, stored)
        except sqlite3.Error as error:
            if primary_code(error) != sqlite3.SQLITE_CORRUPT:
                raise
            return self._damaged(position, "the file is damaged there")
        return self._damaged(position, "it is missing")

    def _select(self, first: int, last: int) -> sqlite3.Cursor:
        return self.connection.execute(sql("chunks"), {"segment": self.number, "first": first, "last": last})

    def _checked(self, position: int, stored: Sequence[Any]) -> Chunk:
        digest, row_count, heard_until_ms, searches, ledger_text = stored
        try:
            whole = digest == chunk.digest_of(
                self.segment_id,
                position,
                row_count=row_count,
                heard_until_ms=heard_until_ms,
                searches=searches,
                ledger_text=ledger_text,
            )
        except (TypeError, AttributeError):  # a damaged record may hold other types
            whole = False
        if whole:
            return Chunk(self.segment_id, position, digest, row_count, heard_until_ms, searches, ledger_text)
        return self._damaged(position, "it does not match its digest", digest, row_count)

    def _damaged(self, position: int, damage: str, digest: Any = None, row_count: Any = 0) -> Chunk:
        if not isinstance(digest, bytes):
            # Something to skip it by, that is the same at every reading.
            digest = chunk.digest_of(
                self.segment_id, position, row_count=0, heard_until_ms=0, searches=b"", ledger_text=b""
            )
        if not (isinstance(row_count, int) and 0 <= row_count <= MOST_SEARCHES):
            row_count = 0
        return Chunk(self.segment_id, position, digest, row_count, self._time_near(position), b"", b"", damage)

    def _time_near(self, position: int) -> int:
        """Until when a neighbour had heard; one by one, since they may lie on the same damaged page."""
        for distance in range(1, NEIGHBOURS + 1):
            for neighbour in (position - distance, position + distance):
                with contextlib.suppress(sqlite3.Error):
                    found = self.connection.execute(
                        "SELECT heard_until_ms FROM chunks WHERE segment = ? AND position = ?", (self.number, neighbour)
                    ).fetchone()
                    if found and isinstance(found[0], int):
                        return found[0]
        return self.opened_at_ms
