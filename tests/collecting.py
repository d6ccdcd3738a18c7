"""A collector without a network: searches are made up here, and everything behind the listening is real."""

import asyncio
import contextlib
import functools
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self, TypeVar

import asyncpg

from collectors import coverage
from collectors.claim import Connect
from collectors.counts import Counts
from collectors.search import Row
from collectors.spool import Spool
from collectors.writer import Pace, Writer
from soulseek_research.storage import database
from tests import databases

Result = TypeVar("Result")

# Small batches, so that after each fault there is a backlog with two in flight.
FAST = Pace(
    backlog_rows=1000,
    batch_seconds=0.1,
    answer_seconds=2.0,
    first_retry_seconds=0.05,
    last_retry_seconds=0.3,
    patience_seconds=1.0,
)
PSEUDONYM = "abcdefgh.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"


class Collecting:
    """From the row to the database.

    Attributes:
        heard: the query of every search that the spool has taken; each is unique.
    """

    def __init__(self, dsn: str, folder: Path, client_id: str = "eu", *, pace: Pace = FAST, **spool: Any) -> None:
        self.dsn = dsn
        self.client_id = client_id
        self.counts = Counts()
        self.ledger = coverage.Ledger(self.counts, lambda name, _: f"pseudonym of {name}", now=time.time())
        self.heard: list[str] = []
        self.path = folder / f"{client_id}.spool"
        self.spool = Spool(self.path, **spool)
        self._thread = ThreadPoolExecutor(1)
        self._buffer: list[Row] = []
        self._name = uuid.uuid4().hex[:8]
        self._pace = pace
        self.running: asyncio.Task[None] | None = None
        self.segment = self.spool.open_segment()
        self.writer = Writer(
            connector(dsn),
            client_id,
            self.path,
            first_segment=self.segment.segment_id,
            new_segment=self.open_segment,
            status=lambda: {"kept": self.counts.kept},
            on_clock=self.ledger.set_clock,
            pace=pace,
        )

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def start(self) -> None:
        self.ledger.place("child", 1, "root", time.time())
        self.running = asyncio.create_task(self.writer.run())

    async def stop(self, drain_seconds: float = 10) -> None:
        """Ends as a collector does that is asked to."""
        self.ledger.lost(coverage.STOPPED)
        await self.flush()
        await self.writer.close(drain_seconds)
        await self._end()

    async def die(self) -> None:
        """Ends as after kill -9: what is not in the spool is lost, and nobody says goodbye."""
        if (claim := self.writer._claim) is not None:
            claim._connection.terminate()
        assert self.running is not None
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)
        self.running = None
        await self._end()

    async def _end(self) -> None:
        try:
            if self.running is not None:
                await self.running
        finally:
            self.running = None
            self._thread.shutdown()
            self.spool.close()

    async def in_thread(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def open_segment(self) -> None:
        self.segment = await self.in_thread(self.spool.open_segment)

    def hear(self, *queries: str, timestamp_ms: int | None = None) -> None:
        now = time.time()
        for query in queries:
            self.ledger.heard(now)
            self.counts.kept += 1
            moment = int(now * 1000) if timestamp_ms is None else timestamp_ms
            self._buffer.append((moment, 7, 1, 0, PSEUDONYM, query))

    def hear_many(self, number: int) -> None:
        count = len(self.heard) + len(self._buffer)
        self.hear(*(f"{self._name} {count + n}" for n in range(number)))

    async def flush(self) -> None:
        rows, self._buffer = self._buffer, []
        now = time.time()
        snapshot = self.ledger.snapshot(now)
        await self.in_thread(lambda: self.spool.append(rows, snapshot, int(now * 1000)))
        self.ledger.spooled(snapshot)
        self.heard += [row[5] for row in rows]
        self.writer.appended(len(rows))

    @contextlib.asynccontextmanager
    async def fed(self, rate: int) -> AsyncIterator[None]:
        """Hears so many searches a second, and flushes ten times a second."""
        ended = asyncio.Event()

        async def feed() -> None:
            while not ended.is_set():
                self.hear_many(rate // 10)
                await self.flush()
                await asyncio.sleep(0.1)

        feeding = asyncio.create_task(feed())
        try:
            yield
            assert not feeding.done(), "listening goes on whatever happens"
        finally:
            ended.set()
            await feeding

    async def drained(self, seconds: float = 20) -> None:
        """Until the database has everything."""
        async with asyncio.timeout(seconds):
            while await self.writer._assignment.backlog.ask(lambda reader: reader.depth().chunks):
                assert self.running is not None
                if self.running.done():
                    await self.running
                await asyncio.sleep(0.02)

    async def in_trouble(self) -> str:
        """Until the writer has something to complain of."""
        for _ in range(1000):
            await asyncio.sleep(0.02)
            if self.writer.state.error is not None:
                return self.writer.state.error
        raise TimeoutError


async def assert_exactly_once(dsn: str, heard: list[str], *, coverage_too: bool = True) -> None:
    """What was heard is in the table, each once; and all sums of it agree."""
    async with databases.connected(dsn) as connection:
        stored = Counter(row["query"] for row in await connection.fetch("SELECT query FROM searches"))
        assert len(heard) == len(set(heard))
        assert stored == Counter(heard)
        assert await number(connection, "count(DISTINCT id) FROM searches") == len(heard)
        assert await number(connection, "sum(kept) FROM minutes") == len(heard)
        if coverage_too:
            assert await number(connection, "sum(kept) FROM coverage") == len(heard)


async def number(connection: asyncpg.Connection, expression: str) -> int:
    return int(await connection.fetchval(f"SELECT {expression}") or 0)


def connector(dsn: str) -> Connect:
    return functools.partial(database.connect, dsn, role=database.Role.COLLECTOR, timeout=2)
