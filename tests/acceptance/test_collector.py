"""The whole collector, as its users start it, on a simulated network: from the wire to the row, and nothing else."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from soulseek_research.simulation.manifest import Sent
from soulseek_research.simulation.network import SimulatedNetwork
from tests import conftest, databases, kept
from tests.collector_process import Collector, data_dir
from tests.kept import Kept
from tests.plain_client import until
from tests.proxy import Proxy

ACCOUNT = "the-listener"
# How old a search may be that kill -9 takes: a flush a second, and what it takes to reach the disk on a busy machine.
LAST_SECOND = 1.6


@pytest.fixture
def folder() -> Iterator[Path]:
    with conftest.open_folder() as folder:
        yield folder


@contextlib.asynccontextmanager
async def listening(network: SimulatedNetwork, folder: Path, *options: str) -> AsyncIterator[Collector]:
    host, port = network.server_address
    collector = Collector(ACCOUNT, f"{host}:{port}", folder, *options)
    try:
        await network.until_heard(ACCOUNT, seconds=60)
        yield collector
    finally:
        if not collector.ended:
            await asyncio.to_thread(collector.stop)


async def read(folder: Path) -> Kept:
    return await asyncio.to_thread(kept.read, data_dir(folder))


def cleaned(sent: Sent) -> tuple[str, int, str]:
    """As it should stand in the table, under its real name."""
    query = "".join("\N{REPLACEMENT CHARACTER}" if ord(c) < 32 or 127 <= ord(c) < 160 else c for c in sent.query)
    return sent.username, sent.ticket, query[:4096]


async def test_every_search_is_kept_once_and_no_name_is_written(folder: Path) -> None:
    async with SimulatedNetwork(rate=200, hostile_share=0.05, speed=2, upload_speed=1_000_000) as network:
        async with listening(network, folder):
            strangers = await network.fault("inject", username=ACCOUNT)
            await asyncio.sleep(3)
            await network.fault("duplicate")
            for way in ("addressed", "embedded"):
                await network.send(("a-searcher-of-note", 77, f"by another way: {way}"), via=way)
            network.silent = True
            await asyncio.sleep(1.5)
        sent = network.sent.to(ACCOUNT)
    found = await read(folder)

    assert strangers
    assert Counter((one.username, one.ticket, one.query) for one in found.searches) == Counter(map(cleaned, sent))
    assert found.counted("kept") == len(found.searches) == found.kept_by_minutes
    assert found.counted("duplicates") >= 1
    assert found.counted("refused") >= 1
    assert found.counted("dropped") == 0
    assert not found.gaps
    assert all(found.covers(moment) for moment in found.times)
    names = {one.username for one in sent if len(one.username) > 6} | {one.username for one in network.injected}
    # A name may stand in what somebody else searched for; that is what the flag is for.
    searched_for = " ".join(one.query for one in sent)
    assert not kept.files_naming(folder, *(name for name in names if name not in searched_for))


async def test_kill_9_costs_at_most_the_last_second_and_the_ledger_says_so(folder: Path) -> None:
    async with SimulatedNetwork(rate=200, hostile_share=0) as network:
        async with listening(network, folder) as collector:
            await asyncio.sleep(4)
            died_at = await asyncio.to_thread(collector.kill)
        await until(lambda: not network.accounts(ACCOUNT))
        async with listening(network, folder):
            await asyncio.sleep(3)
            network.silent = True
            await asyncio.sleep(1.5)
        sent = network.sent.to(ACCOUNT)
    found = await read(folder)

    stored = Counter((one.username, one.ticket, one.query) for one in found.searches)
    lost = [one for one in sent if one.identity not in stored]
    assert max(stored.values()) == 1
    assert set(stored) <= {one.identity for one in sent}
    assert all(died_at - LAST_SECOND < (one.sent_at or 0) <= died_at + 0.1 for one in lost)
    assert [one["end_reason"] for one in found.stretches] == ["process died", "stopped"]
    assert died_at - LAST_SECOND < found.stretches[0]["ended_at"].timestamp() <= died_at
    assert all(found.covers(moment) for moment in found.times)


async def test_a_database_that_is_away_costs_nothing(database: str, folder: Path) -> None:
    async with Proxy(database) as proxy, SimulatedNetwork(rate=300, hostile_share=0) as network:
        async with listening(network, folder, "--database-url", proxy.dsn):
            for _ in range(2):
                await asyncio.sleep(2)
                await proxy.down()
                await asyncio.sleep(3)
                await proxy.up()
            network.silent = True
            await asyncio.sleep(3)
        sent = network.sent.to(ACCOUNT)
    async with databases.connected(database) as connection:
        rows = await connection.fetch("SELECT ticket, query FROM searches")
        gaps = await connection.fetchval("SELECT count(*) FROM gaps")
        counted = await connection.fetchval("SELECT sum(kept) FROM coverage")

    assert Counter((row["ticket"], row["query"]) for row in rows) == Counter((one.ticket, one.query) for one in sent)
    assert gaps == 0
    assert counted == len(sent)


async def test_a_second_collector_of_one_client_id_says_so_and_ends(database: str, folder: Path) -> None:
    other = folder / "other"
    other.mkdir()
    async with SimulatedNetwork(rate=50) as network, listening(network, folder, "--database-url", database):
        host, port = network.server_address
        keys = data_dir(folder) / "keys"
        (other / "data").mkdir()
        keys_there = other / "data" / "keys"
        keys_there.mkdir(mode=0o700)
        for key in keys.iterdir():
            (keys_there / key.name).touch(mode=0o600)
            (keys_there / key.name).write_bytes(key.read_bytes())
        second = Collector("another-account", f"{host}:{port}", other, "--database-url", database)
        await until(lambda: second.ended, seconds=90)
        assert 'already uses the client id "proof"' in second.said()
        assert "Traceback" not in second.said()
        assert network.server.logins["another-account"] == 0
