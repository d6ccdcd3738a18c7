"""One batch, one transaction: its searches, its coverage and the segment's new position, all or nothing."""

import contextlib
import dataclasses
import datetime as dt
import functools
import json
import logging
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import asyncpg
from asyncpg import exceptions

from collectors.backlog import Batch, Gap, day
from collectors.chunk import COPY_COLUMNS, copy_body_of, copy_data, minute_of
from collectors.counts import IMPOSSIBLE_TIME
from collectors.errors import CollectorError

Result = TypeVar("Result")

logger = logging.getLogger(__name__)

REFUSED = "refused by the database"

ADVANCE = (
    "SELECT advance_segment($1, $2, $3, to_timestamp($4::bigint / 1000.0), $5, $6, $7, $8, $9, $10, $11)"  # see 0003
)
RECORD_GAP = (
    "SELECT record_gap($1, $2, $3, to_timestamp($4::bigint / 1000.0), to_timestamp($5::bigint / 1000.0), $6, $7, $8)"
)
RECORD_GAPS = "SELECT record_gaps($1, $2, $3, $4)"
RECORD_COVERAGE = "SELECT record_coverage($1, $2, $3, $4)"
FEW = 10
"""So many bad searches in one batch are bad searches, however small it is; more than half are something else."""
# Of this class too, but not about what is in a search: synchronous_commit, and how we speak to the server.
_NOT_ABOUT_VALUES = (
    exceptions.InvalidParameterValueError,
    exceptions.BadCopyFileFormatError,
    exceptions.InvalidBinaryRepresentationError,
)
_LAST_MOMENT_MS = 253_402_300_799_000  # the year 9999


async def _at_once() -> None:
    """There is nothing to wait for."""


class RefusesEverything(CollectorError):  # noqa: N818
    """The database takes hardly any search: something is wrong with it, not with them."""


class Delivery:
    """Stores batches over one connection, under one claim.

    Attributes:
        dropped: searches that could not be stored, by reason; each is a recorded gap.
    """

    def __init__(self, connection: asyncpg.Connection, client_id: str, token: int, dropped: dict[str, int]) -> None:
        self._connection = connection
        self._client_id = client_id
        self._token = token
        self._months: set[dt.date] = set()  # that have their partition
        self.dropped = dropped

    async def close(self) -> None:
        """Closes the connection."""
        await self._connection.close()

    async def store(
        self, batch: Batch, status: dict[str, Any] | None = None, *, after: Callable[[], Awaitable[object]] = _at_once
    ) -> int:
        """Stores a batch and returns how many searches of it are now in the database.

        Searches that the database cannot take are left out, and recorded as a gap in the same transaction.

        Args:
            batch: what to store.
            status: what the collector says of itself.
            after: waits until the batch before it, which is under way on another connection, is committed. Until then
                this transaction copies, and takes no lock that the other one needs.

        Raises:
            ObjectNotInPrerequisiteStateError: another collector has claimed the client id.
            SerializationError: the segment is not where the batch begins; nothing was stored.
            PostgresError, InterfaceError, OSError: nothing was stored, or, if the connection was lost during COMMIT,
                all of it.
        """
        text = None if status is None else json.dumps(status, default=str)
        try:
            batch = await self._without_impossible_months(batch)
            try:
                stored = await self._transaction(lambda: self._store(batch, text, after))
            except Exception as error:
                if not _is_about_data(error):
                    raise
                logger.warning("the database refuses a batch (%s): storing it piece by piece", type(error).__name__)
                await after()
                stored = await self._transaction(lambda: self._store_piecemeal(batch))
        except exceptions.CheckViolationError:
            self._months.clear()  # a partition is gone: it was archived
            raise
        for gap in stored.gaps:
            self.dropped[gap.reason] = self.dropped.get(gap.reason, 0) + (gap.searches or 0)
            logger.error("searches are missing: %s (%s)", gap.reason, gap.detail or gap.searches)
        return stored.rows

    async def record_gap(self, segment_id: uuid.UUID | None, gap: Gap) -> None:
        """Writes down that searches are missing."""
        since, until = sorted(min(max(moment, 0), _LAST_MOMENT_MS) for moment in (gap.since_ms, gap.until_ms))
        await self._connection.execute(
            RECORD_GAP, self._client_id, self._token, segment_id, since, until, gap.reason, gap.searches, gap.detail
        )

    async def end_segments(self, segments: Sequence[uuid.UUID], how: str) -> None:
        """Says that nothing more of these segments will come: "drained", "lost" or "diverged"."""
        await self._connection.execute(
            "SELECT end_segments($1, $2, $3, $4)", self._client_id, self._token, segments, how
        )

    async def close_open_stretches(self, but_of_segment: uuid.UUID | None, reason: str) -> None:
        """Ends the stretches that processes left open when they died."""
        query = "SELECT close_open_stretches($1, $2, $3, $4)"
        await self._connection.execute(query, self._client_id, self._token, but_of_segment, reason)

    async def report_status(self, status: dict[str, Any]) -> None:
        """Says how the collector is, when there is no batch to say it with."""
        query = "SELECT report_status($1, $2, $3)"
        with contextlib.suppress(exceptions.DataError):
            await self._connection.execute(query, self._client_id, self._token, json.dumps(status, default=str))

    async def write_off(self, segment_id: uuid.UUID, gap: Gap, how: str) -> None:
        """Ends a segment of which searches are missing for good: the gap and the end together."""

        async def work() -> None:
            await self.record_gap(segment_id, gap)
            await self.end_segments([segment_id], how)

        await self._transaction(work)

    async def _transaction(self, work: Callable[[], Awaitable[Result]]) -> Result:
        # Not asyncpg's own: after a failure that one would wait for a ROLLBACK on a line that may be dead.
        await self._connection.execute("BEGIN")
        try:
            result = await work()
        except exceptions.PostgresError:
            if not self._connection.is_closed():
                await self._connection.execute("ROLLBACK")
            raise
        await self._connection.execute("COMMIT")
        return result

    async def _store(self, batch: Batch, status: str | None, after: Callable[[], Awaitable[object]]) -> Batch:
        if batch.rows:
            await self._copy(batch.data)
        await after()
        await self._advance(batch, status)
        return batch

    async def _advance(self, batch: Batch, status: str | None) -> None:
        await self._connection.execute(
            ADVANCE, self._client_id, self._token, batch.segment_id, batch.opened_at_ms,
            batch.from_position, batch.to_position, batch.digest, batch.spooled_position,
            json.dumps(batch.stretches), _minutes_as_json(batch.kept_by_minute), status,
        )  # fmt: skip
        if batch.gaps_seen:
            await self._record(RECORD_GAPS, batch, *batch.gaps_seen)
        for gap in batch.gaps:
            await self.record_gap(batch.segment_id, gap)

    async def _record(self, query: str, batch: Batch, *news: dict[str, Any]) -> None:
        await self._connection.execute(query, self._client_id, self._token, batch.segment_id, json.dumps(news))

    async def _copy(self, data: bytes) -> None:
        # A view, because asyncpg takes bytes for the name of a file.
        source = memoryview(data)
        await self._connection.copy_to_table("searches", source=source, columns=COPY_COLUMNS, format="binary")

    async def _without_impossible_months(self, batch: Batch) -> Batch:
        """Makes sure of the partitions; searches of a month that cannot be become a gap."""
        impossible = {number for number in batch.days if not await self._ensure_month(day(number))}
        if not impossible:
            return batch
        return batch.without(lambda search: minute_of(search) // 1440 in impossible, IMPOSSIBLE_TIME)

    async def _ensure_month(self, date: dt.date | None) -> bool:
        if date is None:
            return False
        month = date.replace(day=1)
        if month not in self._months:
            try:
                await self._connection.execute("SELECT ensure_partition($1)", month)
            except exceptions.DatetimeFieldOverflowError:
                return False
            self._months.add(month)
        return True

    async def _store_piecemeal(self, batch: Batch) -> Batch:
        """Stores what can be stored: one bad search, or one bad word of the ledger, holds up nothing else."""
        await self._connection.execute("SELECT check_fence($1, $2)", self._client_id, self._token)
        refused: list[bytes] = []
        searches = batch.searches()
        await self._salvage(searches, refused)
        if len(refused) > max(FEW, len(searches) // 2):
            # Then it is not the searches: they stay in the spool until somebody has looked.
            raise RefusesEverything(f"the database refuses {len(refused)} of {len(searches)} searches")
        if refused:
            batch = batch.without(set(refused).__contains__, REFUSED)
        for one in batch.stretches:
            await self._attempt(functools.partial(self._record, RECORD_COVERAGE, batch, one))
        for one in batch.gaps_seen:
            await self._attempt(functools.partial(self._record, RECORD_GAPS, batch, one))
        await self._advance(dataclasses.replace(batch, stretches=[], gaps_seen=[]), None)
        return batch

    async def _salvage(self, searches: Sequence[bytes], refused: list[bytes]) -> None:
        data = copy_data([copy_body_of(searches, self._client_id)])
        if not searches or await self._attempt(lambda: self._copy(data)):
            return
        if len(searches) == 1:
            refused += searches
            return
        middle = len(searches) // 2
        await self._salvage(searches[:middle], refused)
        await self._salvage(searches[middle:], refused)

    async def _attempt(self, work: Callable[[], Awaitable[object]]) -> bool:
        await self._connection.execute("SAVEPOINT attempt")
        try:
            await work()
        except Exception as error:
            if not _is_about_data(error):
                raise
            await self._connection.execute("ROLLBACK TO attempt")
            return False
        await self._connection.execute("RELEASE attempt")
        return True


def _minutes_as_json(kept_by_minute: Counter[int]) -> str:
    return json.dumps(
        {dt.datetime.fromtimestamp(minute * 60, dt.UTC).isoformat(): kept for minute, kept in kept_by_minute.items()}
    )


def _is_about_data(error: Exception) -> bool:
    """Whether the values are at fault, as the server says."""
    return isinstance(error, exceptions.DataError) and not isinstance(error, _NOT_ABOUT_VALUES)
