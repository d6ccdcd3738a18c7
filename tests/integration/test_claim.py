import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from collectors import claim, ghost
from collectors.claim import AlreadyClaimed, Claim, FencedOff
from tests import databases
from tests.collecting import Collecting, assert_exactly_once, connector
from tests.plain_client import until
from tests.proxy import Proxy


@pytest.fixture
async def proxy(database: str) -> AsyncIterator[Proxy]:
    async with Proxy(database) as proxy:
        yield proxy


def test_a_client_id_has_the_same_number_everywhere() -> None:
    assert claim.lock_key("eu") == 5214934467255922010
    assert claim.lock_key("us") != claim.lock_key("eu")


async def test_a_client_id_is_held_by_one_and_each_token_is_larger(database: str) -> None:
    first = await Claim.take(connector(database), "eu")
    other = await Claim.take(connector(database), "us")
    with pytest.raises(AlreadyClaimed, match=r'"eu".*--client-id'):
        await Claim.take(connector(database), "eu")
    await first.release()
    second = await Claim.take(connector(database), "eu")
    assert second.token > first.token
    await second.release()
    await other.release()


async def test_patience_waits_for_a_holder_that_leaves(database: str) -> None:
    first = await Claim.take(connector(database), "eu")
    waiting = asyncio.create_task(Claim.take(connector(database), "eu", patience_seconds=10))
    await asyncio.sleep(0.5)
    assert not waiting.done()
    await first.release()
    await (await waiting).release()


async def test_a_claim_notices_that_its_connection_is_gone(database: str) -> None:
    held = await Claim.take(connector(database), "eu")
    lost = asyncio.Event()
    held.on_lost = lost.set
    async with databases.connected(database) as connection:
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE '%claim eu'"
        )
    async with asyncio.timeout(5):
        await lost.wait()
    assert held.is_lost
    await held.release()


async def test_a_claim_notices_a_network_that_went_silent(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "PING_SECONDS", 0.1)
    monkeypatch.setattr(claim, "PING_TIMEOUT_SECONDS", 0.3)
    held = await Claim.take(connector(proxy.dsn), "eu")
    lost = asyncio.Event()
    held.on_lost = lost.set
    proxy.stall()
    async with asyncio.timeout(5):
        await lost.wait()
    await held.release()


async def test_our_own_ghost_does_not_keep_us_out(proxy: Proxy, database: str) -> None:
    held = await Claim.take(connector(proxy.dsn), "eu")
    proxy.stall()
    held._connection.terminate()
    began = time.monotonic()
    again = await Claim.take(connector(database), "eu", previous=held)
    assert time.monotonic() - began < 5
    assert again.token > held.token
    await again.release()
    await held.release()


async def test_who_took_over_meanwhile_is_no_ghost_of_ours(database: str) -> None:
    held = await Claim.take(connector(database), "eu")
    await held.release()
    other = await Claim.take(connector(database), "eu")
    with pytest.raises(AlreadyClaimed):
        await Claim.take(connector(database), "eu", previous=held)
    await other.release()


async def test_a_ghost_is_told_from_a_later_session_of_the_same_number(database: str) -> None:
    async with databases.connected(database) as ours, databases.connected(database) as other:
        backend = await ghost.identify(other)
        assert backend is not None
        assert not await ghost.end(ours, backend._replace(started=backend.started.replace(year=2001)))
        assert await other.fetchval("SELECT 1") == 1
        assert await ghost.end(ours, backend)
        await until(other.is_closed)  # the server ends it when it has read its signal


async def test_a_login_with_no_rights_but_a_collectors_can_claim(database: str, login: str) -> None:
    async with databases.connected(database) as connection:
        await connection.execute(f"GRANT soulseek_research_collector TO {login}")
    held = await Claim.take(connector(databases.as_user(database, login)), "eu")
    assert held._backend is not None
    await held.release()


async def test_a_second_collector_stops_with_a_clear_error_and_loses_nothing(database: str, tmp_path: Path) -> None:
    first_folder, second_folder = tmp_path / "1", tmp_path / "2"
    async with Collecting(database, first_folder) as first:
        first.hear_many(10)
        await first.flush()
        await first.drained()
        second = Collecting(database, second_folder)
        second.start()
        second.hear_many(10)
        await second.flush()
        assert second.running is not None
        with pytest.raises(AlreadyClaimed):
            await second.running
        with pytest.raises(AlreadyClaimed):
            await second.stop()
        first.hear_many(10)
        await first.flush()
        await first.drained()
    async with Collecting(database, second_folder) as later:
        await later.drained()
    await assert_exactly_once(database, first.heard + second.heard)


async def test_who_was_taken_over_commits_no_more(database: str, tmp_path: Path) -> None:
    """The lock went, unseen: the fencing token holds."""
    collecting = Collecting(database, tmp_path)
    collecting.start()
    collecting.hear_many(10)
    await collecting.flush()
    await collecting.drained()
    async with databases.connected(database) as connection:
        await connection.execute("SELECT claim_collector('eu')")
    collecting.hear_many(10)
    await collecting.flush()
    assert collecting.running is not None
    with pytest.raises(FencedOff, match="taken over"):
        await collecting.running
    with pytest.raises(FencedOff):
        await collecting.stop()
    await assert_exactly_once(database, collecting.heard[:10])


async def test_a_new_claim_has_a_new_segment_and_coverage_goes_on(database: str, tmp_path: Path) -> None:
    async with Collecting(database, tmp_path) as collecting:
        collecting.hear_many(10)
        await collecting.flush()
        await collecting.drained()
        segment = collecting.segment
        async with databases.connected(database) as connection:
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE '%claim eu'"
            )
        await collecting.in_trouble()
        for _ in range(500):
            await asyncio.sleep(0.02)
            if collecting.segment != segment:
                break
        collecting.hear_many(10)
        await collecting.flush()
        await collecting.drained()
    await assert_exactly_once(database, collecting.heard)
    async with databases.connected(database) as connection:
        assert [tuple(row) for row in await connection.fetch("SELECT kept, end_reason FROM coverage")] == [
            (20, "stopped")
        ]
        assert await connection.fetchval("SELECT count(DISTINCT segment_id) FROM spool_segments") == 2
