"""The spool: what is heard goes here first, safe from kill -9 and power loss, and from here to the database.

`Spool` belongs to the one process that appends, and to one thread of it at a time. The thread that writes to the
database takes a `SpoolReader` of its own; so does another process that only looks. Nothing here is async.
"""

import functools
import shutil
import sqlite3
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from collectors import chunk
from collectors.chunk import Chunk, SpoolDamaged
from collectors.search import Row
from collectors.spool_file import (
    PAGE_BYTES,
    SpoolError,
    SpoolFile,
    SpoolFileDamaged,
    SpoolFull,
    SpoolLock,
    SpoolLocked,
    SpoolUnavailable,
    as_number,
    sql,
)
from collectors.spool_reader import Depth, SegmentState, SpoolReader, used_bytes

__all__ = [
    "Chunk",
    "Depth",
    "Segment",
    "SegmentState",
    "Spool",
    "SpoolDamaged",
    "SpoolError",
    "SpoolFull",
    "SpoolLocked",
    "SpoolReader",
    "SpoolUnavailable",
]

MAX_BYTES = 8 * 1024**3
"""A search takes 133 bytes (187 where only 47 come in a second): a week of 100 a second."""
RETAIN_SECONDS = 86_400
EMPTY_RESERVE_BYTES = 64 * 1024**2
"""Kept for chunks without searches, so that a full spool can still say why nothing is kept."""
PRUNE_SECONDS = 0.05
PRUNE_CHUNKS = 32
GIVE_BACK_BYTES = 256 * 1024**2
"""When so much of the file is free, and more than half of it, it is given back to the disk, little by little."""
GIVE_BACK_PAGES = 256


class Segment(NamedTuple):
    """The segment that is appended to."""

    segment_id: uuid.UUID
    opened_at_ms: int


class Spool(SpoolReader):
    """The spool of one collector.

    Args:
        path: Its file, made when it is missing, for its owner alone.
        max_bytes: How large it may grow, in bytes. The WAL beside it takes some megabytes more.
        retain_seconds: How long what the database has acknowledged stays.

    Raises:
        SpoolLocked: Another process has it.
        SpoolError: It cannot be opened, is something else, or was written by a newer version of this program.
    """

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES, retain_seconds: float = RETAIN_SECONDS) -> None:
        path = path.resolve()
        self._lock = SpoolLock(path)
        try:
            self._file = SpoolFile(path, appends=True)
        except BaseException:
            self._lock.release()
            raise
        self._max_bytes = max_bytes
        self._reserve_bytes = min(EMPTY_RESERVE_BYTES, max_bytes // 16)
        self._retain_ms = int(retain_seconds * 1000)
        self._current: int | None = None

    def open_segment(self) -> Segment:
        """Begin a new segment; what is appended from now on belongs to it."""
        segment = Segment(uuid.uuid4(), time.time_ns() // 1_000_000)
        with self._file.transaction() as connection:
            self._current = connection.execute(
                "INSERT INTO segments (segment_id, opened_at_ms) VALUES (?, ?)",
                (str(segment.segment_id), segment.opened_at_ms),
            ).lastrowid
        return segment

    def append(self, rows: Sequence[Row], ledger: Any, heard_until_ms: int) -> int:
        """Store one chunk; it is on the disk when this returns.

        Args:
            rows: The searches of one flush, in the order they arrived.
            ledger: The state of the coverage ledger: anything that JSON takes.
            heard_until_ms: Unix time in milliseconds until when this chunk speaks.

        Returns:
            The chunk's position in the segment: one more than the last.

        Raises:
            SpoolFull: The size limit is reached and nothing acknowledged is left to remove.
            SpoolUnavailable: The disk did not take it; nothing was stored.
            SpoolError: No segment was opened.
        """
        searches, ledger_text = chunk.encode_searches(rows), chunk.encode_json(ledger)
        self._make_room(len(searches) + len(ledger_text), reserve_bytes=self._reserve_bytes if rows else 0)
        with self._file.transaction() as connection:
            found = connection.execute(
                "SELECT segment_id, last_position, last_searches FROM segments WHERE segment = ?", (self._current,)
            ).fetchone()
            if found is None:
                raise SpoolError(f"spool {self.path}: no segment is open")
            position, searches_until = as_number(found[1]) + 1, as_number(found[2]) + len(rows)
            digest = chunk.digest_of(
                uuid.UUID(str(found[0])),
                position,
                row_count=len(rows),
                heard_until_ms=heard_until_ms,
                searches=searches,
                ledger_text=ledger_text,
            )
            connection.execute(
                sql("insert_chunk"),
                {
                    "segment": self._current,
                    "position": position,
                    "search_count": len(rows),
                    "searches_until": searches_until,
                    "heard_until_ms": heard_until_ms,
                    "digest": digest,
                    "ledger_text": ledger_text,
                    "searches": searches,
                },
            )
            connection.execute(
                "UPDATE segments SET last_position = ?, last_searches = ? WHERE segment = ?",
                (position, searches_until, self._current),
            )
        return position

    def prune(self, now_ms: int) -> int:
        """Remove what was acknowledged longer ago than it is retained; takes hardly more than `PRUNE_SECONDS`.

        Args:
            now_ms: Unix time in milliseconds.

        Returns:
            How many chunks were removed. As long as it is not 0 there may be more.
        """
        cutoff_ms = now_ms - self._retain_ms
        deadline = time.monotonic() + PRUNE_SECONDS
        removed = 0
        while (step := self._remove_acknowledged(cutoff_ms)) and time.monotonic() < deadline:
            removed += step
        self._remove_ended_segments(cutoff_ms)
        self._give_back(deadline)
        return removed + step

    def close(self) -> None:
        """Close the file and let others have it."""
        super().close()
        self._lock.release()

    def _make_room(self, size: int, *, reserve_bytes: int) -> None:
        # Four pages for the ends of the row and its entries in the indexes.
        size += 4 * PAGE_BYTES
        while (objection := self._objection_to(size, reserve_bytes)) is not None:
            if not self._remove_acknowledged(None):
                raise SpoolFull(f"spool {self.path}: full, {objection}")

    def _objection_to(self, size: int, reserve_bytes: int) -> str | None:
        with self._file.transaction(read_only=True) as connection:
            used = used_bytes(connection)
            free = connection.execute("PRAGMA freelist_count").fetchone()[0] * PAGE_BYTES
        if used + size > self._max_bytes - reserve_bytes:
            return f"with {used:,} of {self._max_bytes:,} bytes"
        # A spool that takes the last byte of its disk could neither be drained nor say that it is full.
        disk = shutil.disk_usage(self.path.parent)
        if size > free and disk.free < size + min(reserve_bytes, disk.total // 4):
            return f"because its disk is, with {disk.free:,} bytes left"
        return None

    def _remove_acknowledged(self, cutoff_ms: int | None) -> int:
        """Removes a few of the oldest chunks that were acknowledged before the cutoff, or at all (None)."""
        with self._file.transaction(read_only=True) as connection:
            found = connection.execute(
                sql("prunable"), {"cutoff_ms": cutoff_ms, "everything": cutoff_ms is None}
            ).fetchone()
        if found is None:
            return 0
        segment, pruned, until = found
        until = min(until, pruned + PRUNE_CHUNKS)
        digest, searches_until = self._end_of(segment, until)
        mark = functools.partial(
            _mark_pruned,
            segment=segment,
            until=until,
            searches_until=searches_until,
            digest=digest,
            cutoff_ms=cutoff_ms,
        )
        try:
            with self._file.transaction() as connection:
                if mark(connection):
                    connection.execute(
                        "DELETE FROM chunks WHERE segment = ? AND position BETWEEN ? AND ?",
                        (segment, pruned + 1, until),
                    )
        except SpoolFileDamaged:
            # What lies on a damaged page cannot be removed. It costs its space, and is passed over from now on.
            with self._file.transaction() as connection:
                mark(connection)
        return int(until - pruned)

    def _remove_ended_segments(self, cutoff_ms: int) -> None:
        with self._file.transaction() as connection:
            ended = connection.execute(
                sql("ended_segments"), {"current": self._current, "cutoff_ms": cutoff_ms}
            ).fetchall()
            connection.executemany("DELETE FROM acknowledgements WHERE segment = ?", ended)
            connection.executemany("DELETE FROM segments WHERE segment = ?", ended)

    def _give_back(self, deadline: float) -> None:
        while time.monotonic() < deadline:
            with self._file.transaction() as connection:
                pages = connection.execute("PRAGMA page_count").fetchone()[0]
                free = connection.execute("PRAGMA freelist_count").fetchone()[0]
                if free * PAGE_BYTES < GIVE_BACK_BYTES or free < pages / 2:
                    return
                connection.execute(f"PRAGMA incremental_vacuum({GIVE_BACK_PAGES})").fetchall()


def _mark_pruned(connection: sqlite3.Connection, **until: Any) -> bool:
    connection.execute(sql("forget_acknowledgements"), until)
    return connection.execute(sql("mark_pruned"), until).rowcount > 0
