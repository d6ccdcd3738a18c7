"""One connection's life: what it finds, what it sends, until it breaks or the collector stops."""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable

import asyncpg

from collectors import clock, coverage, reconcile
from collectors.assignment import Assignment
from collectors.backlog import Batch
from collectors.claim import Claim
from collectors.delivery import Delivery
from collectors.flight import Flights
from soulseek_research.storage import migrations


class ClaimLost(Exception):  # noqa: N818
    """The connection that holds our claim is gone."""


class Drain:
    """Empties the spool, under one claim.

    Args:
        connect: makes a connection for writing.
        claim: the claim it writes under.
        assignment: what to do.
    """

    def __init__(
        self, connect: Callable[[], Awaitable[asyncpg.Connection]], claim: Claim, assignment: Assignment
    ) -> None:
        self._connect = connect
        self._claim = claim
        self._to = assignment
        self._noting: asyncio.Task[None] | None = None
        self._older: set[uuid.UUID] = set()
        self._ended: set[uuid.UUID] = set()
        self._clock_at = 0.0

    async def begin(self) -> None:
        """Finds out what is what: must succeed before `run`.

        Raises:
            StorageError: the schema is not of this version.
            PostgresError, InterfaceError, OSError: as they come.
        """
        self._connection = await self._connect()
        await migrations.check(self._connection)
        self._delivery = self._deliver_over(self._connection)
        self._flights = Flights(self._delivery, self._open_another, self._note_landed)
        self._database_id: uuid.UUID = await self._connection.fetchval("SELECT database_id FROM database_identity")
        await self._measure_clock()
        self._older = await reconcile.reconcile(self._connection, self._delivery, self._database_id, self._to)

    async def run(self) -> None:
        """Sends what waits, and whatever comes, until the collector stops and nothing waits.

        Raises:
            ClaimLost: the claim must be taken anew.
            PostgresError, InterfaceError, OSError: as they come.
        """
        try:
            while True:
                if self._claim.is_lost:
                    raise ClaimLost
                batch = await self._next()
                if batch is not None:
                    await self._close_the_dead(batch)
                    await self._flights.send(batch, self._to.status())
                    if batch.full:
                        continue
                await self._flights.land()
                await self._rest(idle=batch is None)
                if batch is None and self._to.bell.closing.is_set():
                    return
                await self._to.bell.wait(self._to.pace.batch_seconds)
        finally:
            await self._flights.abandon()
            if self._noting is not None:
                await asyncio.gather(self._noting, return_exceptions=True)

    def _deliver_over(self, connection: asyncpg.Connection) -> Delivery:
        return Delivery(connection, self._to.client_id, self._claim.token, self._to.state.dropped)

    async def _open_another(self) -> Delivery:
        return self._deliver_over(await self._connect())

    async def _next(self) -> Batch | None:
        batch = await self._to.backlog.next(self._to.pace.backlog_rows)
        self._to.bell.taken(batch.rows if batch is not None else None)
        return batch

    def _note_landed(self, batch: Batch, rows: int) -> None:
        self._to.state.rows += rows
        self._to.state.last_batch_at = time.time()
        self._noting = asyncio.create_task(self._acknowledge(batch, self._noting))

    async def _acknowledge(self, batch: Batch, earlier: asyncio.Task[None] | None) -> None:
        if earlier is not None:
            await earlier
        self._to.state.backlog = await self._to.backlog.acknowledge(
            batch.segment_id, batch.to_position, self._database_id
        )

    async def _rest(self, *, idle: bool) -> None:
        """Nothing more waits: time for what need not be done at once."""
        if self._noting is not None:
            await self._noting
        if idle:
            await self._flights.rest()
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
        await self._flights.land()
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
