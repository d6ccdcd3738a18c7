"""A finished month leaves `searches`, and nobody who works on another month waits for it."""

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest

from soulseek_research.storage.archive import catalogue, deleting, locks, sealing
from soulseek_research.storage.archive.catalogue import State
from soulseek_research.storage.archive.errors import ArchiveBusyError, ArchiveError
from soulseek_research.storage.archive.month import Month
from soulseek_research.storage.archive.work import Work
from soulseek_research.storage.database import Role
from tests import databases, frozen
from tests.frozen import LATER_MONTH, MONTH

ROWS = frozen.searches(200)
THIS_MONTH = Month.of(datetime.now(UTC))
INSERT = (
    "INSERT INTO searches (timestamp, source, client_id, username, query) VALUES (now(), 1, 'eu', 'key.name', 'query')"
)
# How long a writer of another month waits at most: the lock time-out, and what a loaded machine adds.
NOT_LONG_SECONDS = 1.5


@pytest.fixture
def work(database: str, tmp_path: Path) -> Work:
    return frozen.work(database, tmp_path)


@pytest.fixture
async def owner(database: str) -> asyncpg.Connection:
    async with databases.connected(database) as connection:
        yield connection


async def test_a_sealed_month_is_frozen_and_still_seen(database: str, work: Work, owner: asyncpg.Connection) -> None:
    await frozen.store(database, ROWS)
    (part,) = await sealing.seal(work, MONTH)
    assert (part.number, part.state, part.table_name) == (1, State.SEALED, f"sealed_{MONTH.first_day:%Y_%m}_part1")
    assert await frozen.held(database) == ROWS
    assert await owner.fetchval("SELECT count(*) FROM searches") == 0
    assert await sealing.seal(work, MONTH) == [part]


async def test_what_comes_later_is_a_part_of_its_own(database: str, work: Work, owner: asyncpg.Connection) -> None:
    late, later = frozen.searches(30, first_id=1000), frozen.searches(20, first_id=2000)
    await frozen.store(database, ROWS)
    (first,) = await sealing.seal(work, MONTH)
    await frozen.store(database, late)
    assert [part.number for part in await sealing.seal(work, MONTH)] == [1, 2]
    await frozen.store(database, later)
    assert await frozen.held(database) == ROWS + late + later
    parts = await sealing.seal(work, MONTH)
    assert [part.number for part in parts] == [1, 2, 3]
    assert await frozen.held(database) == ROWS + late + later
    assert await owner.fetchval(f"SELECT count(*) FROM {first.table_name}") == len(ROWS)


async def test_an_empty_partition_is_a_part_only_when_it_is_the_whole_month(database: str, work: Work) -> None:
    await frozen.store(database, [])
    assert [part.number for part in await sealing.seal(work, MONTH)] == [1]
    await frozen.store(database, [])
    assert [part.number for part in await sealing.seal(work, MONTH)] == [1]
    async with databases.connected(database) as owner:
        assert await frozen.tables(owner) == [f"sealed_{MONTH.first_day:%Y_%m}_part1"]
        assert not await owner.fetchval("SELECT to_regclass($1)", f"searches_{MONTH.first_day:%Y_%m}")


async def test_a_month_that_is_not_there_is_nothing_to_do(work: Work) -> None:
    assert await sealing.seal(work, MONTH) == []


async def test_a_month_that_is_not_over_is_not_sealed(work: Work, owner: asyncpg.Connection) -> None:
    with pytest.raises(ArchiveError, match=f"{THIS_MONTH} is not over"):
        await sealing.seal(work, THIS_MONTH)
    await owner.execute(INSERT)
    assert await owner.fetchval("SELECT count(*) FROM searches") == 1


async def test_readers_of_another_month_skip_a_frozen_one(database: str, work: Work, owner: asyncpg.Connection) -> None:
    await frozen.store(database, ROWS)
    await sealing.seal(work, MONTH)
    plan = await owner.fetch(
        f"EXPLAIN SELECT * FROM searches_all WHERE timestamp BETWEEN '{LATER_MONTH.start}' AND '{THIS_MONTH.start}'"
    )
    assert not any("sealed_" in row[0] for row in plan)


async def test_months_that_are_due(database: str, work: Work) -> None:
    await frozen.store(database, ROWS)
    await frozen.store(database, frozen.searches(3, LATER_MONTH), LATER_MONTH)
    async with databases.connected(database) as connection:
        assert await sealing.due(connection) == [MONTH, LATER_MONTH]
        await sealing.seal(work, MONTH)
        assert await sealing.due(connection) == [MONTH, LATER_MONTH]
        (part,) = await frozen.archive(work)
        assert await sealing.due(connection) == [LATER_MONTH]
        assert await sealing.due(connection, LATER_MONTH.start) == []
        # What arrives later makes it due again; a restored month is not.
        await deleting.delete(work, part)
        await connection.fetchval("SELECT open_restored($1, 1)", MONTH.first_day)
        await connection.execute("SELECT close_restored($1, 1)", MONTH.first_day)
        assert await sealing.due(connection) == [LATER_MONTH]
        assert await sealing.seal(work, MONTH) == []
        await frozen.store(database, frozen.searches(1, first_id=5000))
        assert await sealing.due(connection) == [MONTH, LATER_MONTH]


LISTENING = MONTH.end + timedelta(days=1)


async def _waiting(owner: asyncpg.Connection, now: datetime = LISTENING) -> str | None:
    return await sealing.waiting_for(owner, MONTH, now)


async def _collector(owner: asyncpg.Connection, *, heard_until: datetime, spool: int | None = 7) -> None:
    await owner.execute("SELECT claim_collector('eu')")
    status = {} if spool is None else {"spool": {"searches": spool}}
    await owner.execute("UPDATE collectors SET status = $1", json.dumps(status))
    await owner.execute("DELETE FROM minutes")
    await owner.execute("INSERT INTO minutes VALUES ('eu', $1, 5)", heard_until)


async def test_without_collectors_a_month_is_ready(owner: asyncpg.Connection) -> None:
    assert await _waiting(owner) is None


async def test_a_month_is_not_ready_before_it_is_over(owner: asyncpg.Connection) -> None:
    assert await _waiting(owner, MONTH.end - timedelta(seconds=1)) == f"{MONTH} is not over"


async def test_it_is_ready_when_all_have_committed_beyond_its_end(owner: asyncpg.Connection) -> None:
    await _collector(owner, heard_until=MONTH.end)
    assert await _waiting(owner) is None


async def test_it_is_not_ready_while_one_has_not(owner: asyncpg.Connection) -> None:
    await _collector(owner, heard_until=MONTH.end - timedelta(minutes=1))
    waiting = await _waiting(owner)
    assert waiting is not None
    assert f"eu (committed up to {MONTH.end - timedelta(minutes=1):%Y-%m-%d} 23:59Z)" in waiting


async def test_it_is_ready_when_the_spool_is_empty(owner: asyncpg.Connection) -> None:
    await _collector(owner, heard_until=MONTH.end - timedelta(days=3), spool=0)
    assert await _waiting(owner) is None


async def test_it_is_not_ready_when_nothing_is_known_of_the_spool(owner: asyncpg.Connection) -> None:
    await _collector(owner, heard_until=MONTH.end - timedelta(days=3), spool=None)
    assert await _waiting(owner) is not None


async def test_it_is_ready_seven_days_later_whoever_is_missing(owner: asyncpg.Connection) -> None:
    await _collector(owner, heard_until=MONTH.start)
    assert await _waiting(owner, MONTH.end + timedelta(days=7)) is None


async def test_whoever_was_not_heard_of_for_a_week_is_not_waited_for(owner: asyncpg.Connection) -> None:
    await _collector(owner, heard_until=MONTH.start)
    await owner.execute("UPDATE collectors SET heartbeat_at = now() - interval '8 days'")
    assert await _waiting(owner) is None


async def test_writers_of_other_months_do_not_wait_for_it(
    database: str, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealing, "TRY_SECONDS", 3.0)
    await frozen.store(database, ROWS)
    async with databases.connected(database) as reader, databases.connected(database) as writer:
        async with reader.transaction():
            await reader.fetch(f"SELECT * FROM searches WHERE timestamp < '{MONTH.end}' LIMIT 1")
            sealed = asyncio.create_task(sealing.seal(work, MONTH))
            waits = []
            while not sealed.done():
                began = time.monotonic()
                await writer.execute(INSERT)
                waits.append(time.monotonic() - began)
                await asyncio.sleep(0.01)
        with pytest.raises(ArchiveBusyError, match=r"somebody has held a lock .*process \d+ of"):
            await sealed
        assert max(waits) < NOT_LONG_SECONDS
        assert len(waits) > 20
    assert await frozen.held(database) == ROWS


async def test_a_month_is_sealed_once_who_holds_a_lock_has_ended(
    database: str, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealing, "PAUSE_SECONDS", (0.05, 0.1))
    await frozen.store(database, ROWS)
    async with databases.connected(database) as holder, holder.transaction():
        await holder.execute(f"LOCK TABLE searches_{MONTH.first_day:%Y_%m} IN ACCESS SHARE MODE")
        sealed = asyncio.create_task(sealing.seal(work, MONTH))
        await asyncio.sleep(0.5)
        assert not sealed.done()
    assert [part.number for part in await sealed] == [1]


async def test_an_autovacuum_of_the_month_gives_way(
    database: str, work: Work, owner: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may take an hour of a month that has just ended, and PostgreSQL ends it only for who waits long enough."""
    monkeypatch.setattr(sealing, "TRY_SECONDS", 10.0)
    await frozen.store(database, frozen.searches(20_000))
    partition = f"searches_{MONTH.first_day:%Y_%m}"
    await owner.execute(
        f"ALTER TABLE {partition} SET (autovacuum_vacuum_insert_scale_factor = 0, "
        "autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1)"
    )
    await owner.execute("ALTER SYSTEM SET autovacuum_naptime = '1s'")
    try:
        await owner.execute("SELECT pg_reload_conf()")
        async with asyncio.timeout(60):
            under_way = f"SELECT FROM pg_stat_progress_vacuum WHERE relid = '{partition}'::regclass"
            while not await owner.fetch(under_way):  # noqa: ASYNC110 - nobody tells us
                await asyncio.sleep(0.1)
        (part,) = await sealing.seal(work, MONTH)
        options = await owner.fetchval("SELECT reloptions FROM pg_class WHERE relname = $1", part.table_name)
        assert "autovacuum_enabled=false" in options  # nor does it come back
    finally:
        await owner.execute("ALTER SYSTEM RESET autovacuum_naptime")
        await owner.execute("SELECT pg_reload_conf()")


async def test_another_run_of_the_month_is_told_so(database: str, work: Work) -> None:
    await frozen.store(database, ROWS)
    async with locks.month_session(work.database, MONTH):
        with pytest.raises(ArchiveBusyError, match=f"another run is working on {MONTH}"):
            await sealing.seal(work, MONTH)
        assert await sealing.seal(work, LATER_MONTH) == []


async def test_many_at_once_seal_a_month_once(database: str) -> None:
    await frozen.store(database, ROWS)

    async def seal() -> int | None:
        async with databases.connected(database, role=Role.ARCHIVIST) as connection:
            return await connection.fetchval("SELECT seal_month($1)", MONTH.first_day)

    numbers = await asyncio.gather(*(seal() for _ in range(5)))
    assert sorted(number for number in numbers if number) == [1]
    assert await frozen.held(database) == ROWS


async def test_a_writer_in_the_midst_of_it_loses_nothing(database: str, work: Work) -> None:
    """Late searches that come while the month is sealed land in one part or the next."""
    await frozen.store(database, ROWS)
    stored = list(ROWS)

    async def write() -> None:
        for number in range(40):
            rows = frozen.searches(5, first_id=10_000 + 5 * number)
            try:
                await frozen.store(database, rows)
            except asyncpg.CheckViolationError:
                continue  # the partition went away between making sure of it and writing: a collector tries again
            stored.extend(rows)

    writing = asyncio.create_task(write())
    while not writing.done():
        await sealing.seal(work, MONTH)
        await asyncio.sleep(0.05)
    await writing
    await sealing.seal(work, MONTH)
    assert sorted(await frozen.held(database)) == sorted(stored)
    async with databases.connected(database) as owner:
        parts = await catalogue.parts(owner, MONTH)
        assert [part.number for part in parts] == list(range(1, len(parts) + 1))
        assert len(parts) > 1
