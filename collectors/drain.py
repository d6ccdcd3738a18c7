"""One connection's life: what it finds, what it sends, until it breaks or the collector stops."""

import asyncio
import logging
import time
import uuid
from typing import TypeVar

import asyncpg

from collectors import clock, coverage, reconcile
from collectors.assignment import Assignment
from collectors.backlog import Batch
from collectors.claim import Claim
from collectors.delivery import Delivery
from soulseek_research.storage import migrations

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


class ClaimLost(Exception):  # noqa: N818
    """The connection that holds our claim is gone."""


class Drain:
    """Empties the spool over one connection, under one claim."""

    def __init__(self, connection: asyncpg.Connection, claim: Claim, assignment: Assignment) -> None:
        self._connection = connection
        self._claim = claim
        self._to = assignment
        self._delivery = Delivery(connection, assignment.client_id, claim.token, assignment.state.dropped)
        self._database_id = uuid.UUID(int=0)
        self._older: set[uuid.UUID] = set()
        self._ended: set[uuid.UUID] = set()
        self._clock_at = 0.0

    async def begin(self) -> None:
        """Finds out what is what: must succeed before `run`.

        Raises:
            StorageError: the schema is not of this version.
            PostgresError, InterfaceError, OSError: as they come.
        """
        await migrations.check(self._connection)
        await self._delivery.prepare()
        self._database_id = await self._connection.fetchval("SELECT database_id FROM database_identity")
        self._to.state.database_id = self._database_id
        await self._measure_clock()
        self._older = await reconcile.reconcile(self._connection, self._delivery, self._database_id, self._to)

    async def run(self) -> None:
        """Sends what waits, and whatever comes, until the collector stops and nothing waits.

        Raises:
            ClaimLost: the claim must be taken anew.
            PostgresError, InterfaceError, OSError: as they come.
        """
        ahead: asyncio.Task[Batch | None] | None = None
        noting: asyncio.Task[None] | None = None
        try:
            while True:
                if self._claim.is_lost:
                    raise ClaimLost
                batch = await (ahead or self._next())
                ahead = None
                if batch is not None:
                    ahead = asyncio.create_task(self._next()) if batch.full else None
                    await self._close_the_dead(batch)
                    await self._store(batch)
                    if noting is not None:
                        await noting
                    noting = asyncio.create_task(self._note(batch))
                if ahead is not None:
                    continue
                if noting is not None:
                    await noting
                await self._rest(idle=batch is None)
                if batch is None and self._to.bell.closing.is_set():
                    return
                await self._to.bell.wait(self._to.pace.batch_seconds)
        finally:
            tasks = [task for task in (ahead, noting) if task is not None]
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _next(self) -> Batch | None:
        batch = await self._to.backlog.next(self._to.pace.backlog_rows)
        self._to.bell.taken(batch.rows if batch is not None else 0)
        return batch

    async def _store(self, batch: Batch) -> None:
        began = time.perf_counter()
        rows = await self._delivery.store(batch, self._to.status())
        state = self._to.state
        state.rows += rows
        state.rows_per_second = rows / (time.perf_counter() - began)
        state.last_batch_at = time.time()

    async def _note(self, batch: Batch) -> None:
        self._to.state.backlog = await self._to.backlog.acknowledge(
            batch.segment_id, batch.to_position, self._database_id
        )

    async def _rest(self, *, idle: bool) -> None:
        """Nothing more waits: time for what need not be done at once."""
        if idle:
            await self._close_the_dead(None)
            await self._delivery.report_status(self._to.status())
        await self._end_finished()
        if time.monotonic() - self._clock_at > self._to.pace.clock_seconds:
            await self._measure_clock()

    async def _close_the_dead(self, batch: Batch | None) -> None:
        """Once what dead processes left is sent, and before the first word of this one, their stretches get an end."""
        first = self._to.first_segment
        if self._to.dead_closed or (batch is not None and batch.segment_id in self._older):
            return
        await self._delivery.close_open_stretches(first, coverage.PROCESS_DIED)
        self._to.dead_closed = True

    async def _end_finished(self) -> None:
        nobody_appends = self._to.first_segment is None or self._to.bell.closing.is_set()
        segments = await self._to.backlog.finished(newest_too=nobody_appends)
        new = [one for one in segments if one not in self._ended]
        if new:
            await self._delivery.end_segments(new, "drained")
            self._ended.update(new)

    async def _measure_clock(self) -> None:
        self._clock_at = time.monotonic()
        reading = await clock.measure(self._connection)
        self._to.state.clock = reading
        self._to.on_clock(reading)
