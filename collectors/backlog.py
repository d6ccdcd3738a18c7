"""What the spool holds and the database does not have yet, batch by batch, in the order it was heard."""

import asyncio
import dataclasses
import datetime as dt
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from collectors.chunk import Chunk, copy_body_of, copy_data, minute_of
from collectors.spool import Depth, SegmentState, SpoolReader

Result = TypeVar("Result")

DAMAGED = "damaged in the spool"

_MINUTES_A_DAY = 1440


class Gap(NamedTuple):
    """Searches that are missing; times are Unix milliseconds, `searches` is None where nobody can know."""

    reason: str
    since_ms: int
    until_ms: int
    searches: int | None
    detail: str | None = None


@dataclasses.dataclass(slots=True)
class Batch:
    """Whole chunks of one segment that go to the database in one transaction.

    Attributes:
        from_position: what the database has of the segment.
        to_position: what it will have.
        digest: of the last chunk.
        spooled_position: the segment's last chunk in the spool at that time.
        kept_by_minute: its searches, by minutes since 1970.
        stretches: news of coverage, the newest of each.
        gaps_seen: gaps that the ledger saw, the newest of each.
        gaps: what was found missing on the way.
        full: there may be more waiting.
        data: its searches as COPY takes them.
        chunks: those that hold its searches.
        chosen: its searches, where not all of its chunks' are to go.
    """

    segment_id: uuid.UUID
    opened_at_ms: int
    from_position: int
    to_position: int
    digest: bytes
    spooled_position: int
    client_id: str = ""
    kept_by_minute: Counter[int] = dataclasses.field(default_factory=Counter)
    stretches: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    gaps_seen: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    gaps: list[Gap] = dataclasses.field(default_factory=list)
    full: bool = False
    data: bytes = b""
    chunks: Sequence[Chunk] = ()
    chosen: list[bytes] | None = None

    @property
    def rows(self) -> int:
        """How many searches it brings."""
        return self.kept_by_minute.total()

    def searches(self) -> list[bytes]:
        """Its searches one by one."""
        if self.chosen is not None:
            return self.chosen
        return [search for chunk in self.chunks for search in chunk.copy_rows()]

    def without(self, is_out: Callable[[bytes], bool], reason: str) -> "Batch":
        """The batch without some of its searches, and with a gap instead."""
        minutes = Counter(minute_of(search) for search in self.searches() if is_out(search))
        rest = [search for search in self.searches() if not is_out(search)]
        gap = Gap(reason, min(minutes) * 60_000, (max(minutes) + 1) * 60_000, minutes.total())
        return dataclasses.replace(
            self,
            data=copy_data([copy_body_of(rest, self.client_id)]),
            chosen=rest,
            kept_by_minute=self.kept_by_minute - minutes,
            gaps=[*self.gaps, gap],
        )

    @property
    def days(self) -> set[int]:
        """The days on which its searches were heard, since 1970."""
        return {minute // _MINUTES_A_DAY for minute in self.kept_by_minute}


@dataclasses.dataclass(slots=True)
class Cursor:
    """Where to go on in a segment.

    Attributes:
        committed: what the database has, as it says.
        after: the chunk after which to read: later than `committed` where chunks are to be left out.
        closed: nothing of it is to be sent any more.
    """

    committed: int
    after: int
    closed: bool = False


class Backlog:
    """Reads the spool forward, in a thread of its own; `rewind` tells where to begin.

    Args:
        path: the spool's file, which somebody else holds and appends to.
        client_id: the collector's.
    """

    def __init__(self, path: Path, client_id: str) -> None:
        self._reader = SpoolReader(path)
        self._client_id = client_id
        self._cursors: dict[uuid.UUID, Cursor] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="spool reader")

    async def ask(self, question: Callable[[SpoolReader], Result]) -> Result:
        """Lets the thread ask the spool something, after all that was asked before."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, question, self._reader)

    def rewind(self, cursors: dict[uuid.UUID, Cursor]) -> None:
        """Begins anew. A segment that is not named is read from its first chunk."""
        self._cursors = cursors

    async def next(self, max_rows: int) -> Batch | None:
        """The next batch, or None when nothing waits."""
        return await self.ask(lambda reader: self._next(reader, self._cursors, max_rows))

    async def acknowledge(self, segment_id: uuid.UUID, position: int, database_id: uuid.UUID) -> Depth:
        """Notes what the database has, and returns what waits now."""

        def note(reader: SpoolReader) -> Depth:
            reader.acknowledge(segment_id, position, database_id)
            return reader.depth()

        return await self.ask(note)

    async def finished(self, *, newest_too: bool) -> list[uuid.UUID]:
        """The segments that were sent to the end; the newest is still appended to, unless its collector stops."""

        def look(reader: SpoolReader) -> list[uuid.UUID]:
            segments = reader.segments()
            return [one.segment_id for one in segments[: None if newest_too else -1] if self._is_finished(one)]

        return await self.ask(look)

    def close(self) -> None:
        """Ends the thread."""
        self._thread.submit(self._reader.close)
        self._thread.shutdown()

    def _next(self, reader: SpoolReader, cursors: dict[uuid.UUID, Cursor], max_rows: int) -> Batch | None:
        for segment in reader.segments():
            cursor = cursors.setdefault(segment.segment_id, Cursor(0, 0))
            if cursor.closed or cursor.after >= segment.last_position:
                continue
            chunks = reader.read(segment.segment_id, cursor.after, max_rows)
            batch = gather(segment, cursor.committed, chunks, self._client_id)
            cursor.committed = cursor.after = batch.to_position
            return batch
        return None

    def _is_finished(self, segment: SegmentState) -> bool:
        cursor = self._cursors.get(segment.segment_id)
        return cursor is not None and not cursor.closed and cursor.after >= segment.last_position


def gather(segment: SegmentState, committed: int, chunks: Sequence[Chunk], client_id: str) -> Batch:
    """Makes one batch of chunks that follow each other."""
    whole: list[Chunk] = []
    bodies: list[bytes] = []
    minutes: Counter[int] = Counter()
    stretches: dict[str, dict[str, Any]] = {}
    gaps_seen: dict[str, dict[str, Any]] = {}
    gaps: list[Gap] = []
    for chunk in chunks:
        try:
            body, per_minute, ledger = chunk.copy_body(client_id), chunk.per_minute(), chunk.ledger
            news = {form["stretch_id"]: form for form in ledger["stretches"]}
            news_of_gaps = {form["gap_id"]: form for form in ledger["gaps"]}
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a chunk, the next one must get through
            gaps.append(
                Gap(DAMAGED, chunk.heard_until_ms, chunk.heard_until_ms, chunk.row_count or None, _told(chunk, error))
            )
            continue
        whole.append(chunk)
        bodies.append(body)
        minutes.update(per_minute)
        stretches.update(news)
        gaps_seen.update(news_of_gaps)
    last = chunks[-1]
    return Batch(
        segment.segment_id,
        segment.opened_at_ms,
        committed,
        last.position,
        last.digest,
        segment.last_position,
        client_id,
        minutes,
        list(stretches.values()),
        list(gaps_seen.values()),
        gaps,
        full=last.position < segment.last_position,
        data=copy_data(bodies),
        chunks=whole,
    )


def _told(chunk: Chunk, error: Exception) -> str:
    return f"chunk {chunk.position}: {chunk.damage or type(error).__name__}"


def day(number: int) -> dt.date | None:
    """A day since 1970 as a date; None when no calendar has it."""
    try:
        return dt.date(1970, 1, 1) + dt.timedelta(days=number)
    except OverflowError:
        return None
