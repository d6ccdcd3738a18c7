"""Whatever is done to the database and to the line, what was heard is in the table, each once."""

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from soulseek_research.storage import migrations
from soulseek_research.storage.embedded import EmbeddedServer
from tests import databases
from tests.collecting import FAST, Collecting, assert_exactly_once
from tests.proxy import AtCommit, Proxy


@pytest.fixture
async def database(empty_database: str) -> str:
    async with databases.connected(empty_database) as connection:
        await migrations.migrate(connection)
    return empty_database


@pytest.fixture
async def proxy(database: str) -> AsyncIterator[Proxy]:
    async with Proxy(database) as proxy:
        yield proxy


async def under_load(collecting: Collecting, fault: Callable[[], Awaitable[None]], *, rate: int = 5000) -> None:
    """Hears at a steady rate before, during and after the fault."""
    async with collecting.fed(rate):
        await asyncio.sleep(0.5)
        await fault()
        await asyncio.sleep(0.5)
    await collecting.drained(60)


@pytest.mark.parametrize("fault", list(AtCommit))
async def test_a_line_that_is_cut_during_commit(database: str, proxy: Proxy, tmp_path: Path, fault: AtCommit) -> None:
    async def cut() -> None:
        for _ in range(3):
            proxy.at_commit = fault
            broken = proxy.commits_broken
            for _ in range(1000):
                await asyncio.sleep(0.01)
                if proxy.commits_broken > broken:
                    break
            await asyncio.sleep(0.3)

    async with Collecting(proxy.dsn, tmp_path) as collecting:
        await under_load(collecting, cut)
    assert proxy.commits_broken == 3
    await assert_exactly_once(database, collecting.heard)


async def test_a_database_that_is_cut_off_for_a_while(database: str, proxy: Proxy, tmp_path: Path) -> None:
    async def cut() -> None:
        await proxy.down()
        began = len(collecting.heard)
        await asyncio.sleep(3)
        assert len(collecting.heard) - began > 3 * 5000 * 0.5, "listening is not slowed"
        assert not collecting.writer.state.connected
        await proxy.up()

    async with Collecting(proxy.dsn, tmp_path) as collecting:
        await under_load(collecting, cut)
    await assert_exactly_once(database, collecting.heard)


async def test_lines_that_are_reset_again_and_again(database: str, proxy: Proxy, tmp_path: Path) -> None:
    async def cut() -> None:
        for _ in range(20):
            await asyncio.sleep(random.uniform(0, 0.25))
            proxy.cut()

    async with Collecting(proxy.dsn, tmp_path) as collecting:
        await under_load(collecting, cut)
    await assert_exactly_once(database, collecting.heard)


@pytest.mark.parametrize("resumes", [True, False])
async def test_a_network_that_goes_silent(database: str, proxy: Proxy, tmp_path: Path, *, resumes: bool) -> None:
    async def stall() -> None:
        proxy.stall()
        await asyncio.sleep(4)  # longer than the writer waits for an answer
        if resumes:
            proxy.resume()
        else:
            proxy.forget()

    async with Collecting(proxy.dsn, tmp_path) as collecting:
        await under_load(collecting, stall)
    await assert_exactly_once(database, collecting.heard)


async def test_sessions_that_the_administrator_ends(database: str, tmp_path: Path) -> None:
    async def terminate() -> None:
        async with databases.connected(database) as connection:
            for whose in ("writer", "claim", "%"):
                await connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE application_name LIKE 'soulseek-research ' || $1 || ' eu'",
                    whose,
                )
                await asyncio.sleep(0.7)

    async with Collecting(database, tmp_path) as collecting:
        await under_load(collecting, terminate)
    await assert_exactly_once(database, collecting.heard)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGQUIT])
async def test_a_server_that_is_killed_or_restarted(data_dir: Path, tmp_path: Path, how: signal.Signals) -> None:
    server = EmbeddedServer(data_dir)
    dsn = await asyncio.to_thread(server.start)
    try:
        async with databases.connected(dsn) as connection:
            await migrations.migrate(connection)

        async def kill() -> None:
            await asyncio.to_thread(end_postmaster, data_dir, how)
            await asyncio.sleep(1)
            assert await asyncio.to_thread(server.start) == dsn

        async with Collecting(dsn, tmp_path) as collecting:
            await under_load(collecting, kill)
        await assert_exactly_once(dsn, collecting.heard)
    finally:
        await asyncio.to_thread(server.release, wait=True)


def end_postmaster(data_dir: Path, how: signal.Signals) -> None:
    pid = int((data_dir / "cluster/postmaster.pid").read_text().split()[0])
    os.kill(pid, how)
    for _ in range(500):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.02)


async def test_a_collector_that_dies_while_the_database_is_away(database: str, proxy: Proxy, tmp_path: Path) -> None:
    heard: list[str] = []
    for _ in range(3):
        collecting = Collecting(proxy.dsn, tmp_path)
        collecting.start()
        async with collecting.fed(2000):
            await asyncio.sleep(0.5)
            await proxy.down()
            await asyncio.sleep(0.5)
        await collecting.die()
        heard += collecting.heard
        await proxy.up()
    async with Collecting(proxy.dsn, tmp_path) as last:
        await last.drained()
    await assert_exactly_once(database, heard + last.heard)


@pytest.mark.prove
@pytest.mark.timeout(900)
async def test_minutes_of_everything(data_dir: Path, tmp_path: Path) -> None:
    """Random faults of every kind for three minutes, then a minute's cut, at 2,000 searches a second."""
    chance = random.Random(1)
    server = EmbeddedServer(data_dir)
    dsn = await asyncio.to_thread(server.start)
    try:
        async with databases.connected(dsn) as connection:
            await migrations.migrate(connection)
        heard: list[str] = []
        async with Proxy(dsn) as proxy:
            end = time.monotonic() + 180
            while time.monotonic() < end:
                collecting = Collecting(proxy.dsn, tmp_path, pace=FAST)
                collecting.start()
                async with collecting.fed(2000):
                    for _ in range(8):
                        await random_fault(chance, proxy, server, data_dir)
                await collecting.die()
                heard += collecting.heard
            async with Collecting(proxy.dsn, tmp_path) as last:
                async with last.fed(2000):
                    await asyncio.sleep(3)
                    await proxy.down()
                    await asyncio.sleep(60)
                    await proxy.up()
                await last.drained(120)
        await assert_exactly_once(dsn, heard + last.heard)
    finally:
        await asyncio.to_thread(server.release, wait=True)


async def random_fault(chance: random.Random, proxy: Proxy, server: EmbeddedServer, data_dir: Path) -> None:
    match chance.choice(["commit", "cut", "stall", "down", "kill", "nothing"]):
        case "commit":
            proxy.at_commit = chance.choice(list(AtCommit))
        case "cut":
            proxy.cut()
        case "stall":
            proxy.stall()
            await asyncio.sleep(chance.uniform(0, 4))
            proxy.resume() if chance.random() < 0.5 else proxy.forget()
        case "down":
            await proxy.down()
            await asyncio.sleep(chance.uniform(0, 3))
            await proxy.up()
        case "kill":
            await asyncio.to_thread(end_postmaster, data_dir, signal.SIGKILL)
            await asyncio.to_thread(server.start)
    await asyncio.sleep(chance.uniform(0, 3))
