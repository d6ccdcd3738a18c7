"""Killed at any moment and started again, an archive ends with every search in the database or in a verified file."""

import asyncio
import contextlib
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest

from soulseek_research.storage import migrations
from tests import databases, months, witness
from tests.collecting import Collecting

MONTH = months.finished()
RATE = 500
LATE_SECONDS = 0.3
# Of how long an undisturbed archive takes: one that goes on where others were killed has several parts to do.
LONGER = 1.3
AT_WORK = """
    SELECT EXISTS (
        SELECT FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'
        AND application_name !~ '^(witness|soulseek-research (writer|claim))'
    )
"""
# Whatever PostgreSQL takes as text, and tickets that are not there or at their ends.
LATE = (
    ("", None),
    ("\\N", 0),
    ('a "quoted, phrase" \\. \\', (1 << 32) - 1),
    ("\x01\t\r\n\x7f\x85\u2028\ufeff", 1),
    ("кино 東京 👩‍🎤 \u202eabc", 2),
    ("x" * 4096, None),
)


@dataclass
class Kills:
    """How often an archive was killed, by how far the first part had come.

    Attributes:
        span: How many seconds an archive is at work that nobody kills.
    """

    wanted: int
    states: Counter[str] = field(default_factory=Counter)
    span: float | None = None

    @property
    def left(self) -> bool:
        return self.states.total() < self.wanted


class Archivist:
    """Our commands on one month, in processes; and a connection that sees whether one is at work."""

    def __init__(self, connection: asyncpg.Connection, dsn: str, folder: Path) -> None:
        self.archive = folder / "archive"
        self._connection = connection
        self._log = folder / "commands.log"
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "SOULSEEK_RESEARCH_DATABASE_URL": dsn,
            "SOULSEEK_RESEARCH_DATA_DIR": str(folder),
        }

    async def run(self, command: str) -> float:
        """Run a command to its end, which has to be a good one; returns for how many seconds it was at work."""
        async with self._at_work(command) as process:
            began = time.monotonic()
            assert await process.wait() == 0, self._said()
            return time.monotonic() - began

    async def killed(self, after: float) -> bool:
        """Let it archive for so many seconds and kill it; returns whether there was anything left to kill."""
        async with self._at_work("archive") as process:
            with contextlib.suppress(TimeoutError):
                assert await asyncio.wait_for(process.wait(), after) == 0, self._said()
                return False
            process.kill()
        await self._gone()
        return True

    @contextlib.asynccontextmanager
    async def _at_work(self, command: str) -> AsyncIterator[asyncio.subprocess.Process]:
        """Start one and wait until it is connected, for imports are nothing that a kill could spoil."""
        with self._log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "flows.cli", command, "--month", str(MONTH), env=self._environment,
                stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip
        try:
            while process.returncode is None and not await self._connection.fetchval(AT_WORK):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _gone(self) -> None:
        """Until the server has noticed that whoever was at work is gone."""
        async with asyncio.timeout(30):
            while await self._connection.fetchval(AT_WORK):  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    def _said(self) -> str:
        return self._log.read_text(errors="replace")[-2000:]


@contextlib.asynccontextmanager
async def month_of_searches(server_dsn: str, rows: int) -> AsyncIterator[str]:
    """The name of a database to copy, with a month that goes as soon as it is archived."""
    async with databases.fresh(server_dsn) as dsn:
        async with databases.connected(dsn) as connection:
            await migrations.migrate(connection)
            await connection.execute("UPDATE retention SET queryable_months = 0")
            await months.fill(connection, MONTH, rows, months.block(rows, people=2000))
            await witness.watch(connection, MONTH)
        yield databases.name_of(dsn)


async def kill_again_and_again(server_dsn: str, tmp_path: Path, count: Kills, *, rows: int) -> None:
    async with month_of_searches(server_dsn, rows) as template:
        while count.left:
            folder = Path(tempfile.mkdtemp(dir=tmp_path))
            async with databases.fresh(server_dsn, f"TEMPLATE {template} STRATEGY FILE_COPY") as dsn:
                await archive_and_restore(dsn, folder, count)


async def archive_and_restore(dsn: str, folder: Path, count: Kills) -> None:
    """One month, killed until an archive comes to its end before it is killed."""
    async with databases.connected(dsn, application_name="witness") as connection:
        archivist = Archivist(connection, dsn, folder)
        async with Collecting(dsn, folder) as collecting, collecting.fed(RATE), late_searches(dsn):
            if count.span is None:
                count.span = await archivist.run("archive")
            while count.left and await archivist.killed(random.uniform(0, LONGER * count.span)):
                count.states[await reached(connection)] += 1
                await witness.assert_nothing_lost(connection, MONTH, archivist.archive)
        await archivist.run("archive")
        assert not await connection.fetch(f"{witness.here(MONTH)} LIMIT 1")
        await witness.assert_nothing_lost(connection, MONTH, archivist.archive)
        await archivist.run("restore")
        await witness.assert_restored(connection, MONTH)
        await assert_all_heard(connection, collecting)


async def reached(connection: asyncpg.Connection) -> str:
    """How far the first part has come."""
    row = await connection.fetchrow("SELECT state, deleted FROM archives WHERE part = 1")
    return "nothing" if row is None else "dropped" if row["deleted"] else str(row["state"])


@contextlib.asynccontextmanager
async def late_searches(dsn: str) -> AsyncIterator[None]:
    """Somebody who was cut off for weeks brings a few searches of the month now and then, whatever is done to it."""
    async with databases.connected(dsn, application_name="witness late") as connection:
        ended = asyncio.Event()

        async def bring() -> None:
            while not ended.is_set():
                await witness.insert(
                    connection,
                    MONTH,
                    [
                        (moment, ticket, 1, 0, "late", "abcdefgh.AAAA", query)
                        for moment in (MONTH.start, MONTH.end - timedelta(milliseconds=1))
                        for query, ticket in LATE
                    ],
                )
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(ended.wait(), LATE_SECONDS)

        bringing = asyncio.create_task(bring())
        try:
            yield
        finally:
            ended.set()
            await bringing


async def assert_all_heard(connection: asyncpg.Connection, collecting: Collecting) -> None:
    """Whoever collected meanwhile lost nothing."""
    rows = await connection.fetch("SELECT query FROM searches WHERE client_id = $1", collecting.client_id)
    assert Counter(row["query"] for row in rows) == Counter(collecting.heard)


async def test_a_few_kills(server_dsn: str, tmp_path: Path) -> None:
    await kill_again_and_again(server_dsn, tmp_path, Kills(3, span=0.5), rows=20_000)


@pytest.mark.prove
@pytest.mark.timeout(1800)
async def test_fifty_kills_at_random_moments(server_dsn: str, tmp_path: Path) -> None:
    count = Kills(50)
    await kill_again_and_again(server_dsn, tmp_path, count, rows=500_000)
    sys.stderr.write(f"killed {count.states.total()} times; the month was {dict(count.states)}\n")
