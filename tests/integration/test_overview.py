import json
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from soulseek_research.storage import overview
from soulseek_research.storage.database import Role
from tests import databases


@pytest.fixture
async def owner(database: str) -> AsyncIterator[asyncpg.Connection]:
    async with databases.connected(database) as connection:
        yield connection


async def _collector(connection: asyncpg.Connection, client: str, *, silent_for: timedelta = timedelta()) -> None:
    await connection.execute(
        "INSERT INTO collectors (client_id, heartbeat_at, status) VALUES ($1, now() - $2::interval, $3)",
        client,
        silent_for,
        json.dumps({"spool": 3}),
    )


async def _stretch(connection: asyncpg.Connection, client: str, *, ago: timedelta, **columns: Any) -> None:
    now = datetime.now(UTC)
    columns = {
        "stretch_id": uuid.uuid4(),
        "client_id": client,
        "segment_id": uuid.uuid4(),
        "started_at": now - ago,
        "ended_at": now,
        "role": "child",
        "branch_level": 1,
        **columns,
    }
    places = ", ".join(f"${number}" for number in range(1, len(columns) + 1))
    await connection.execute(f"INSERT INTO coverage ({', '.join(columns)}) VALUES ({places})", *columns.values())


async def _kept(connection: asyncpg.Connection, client: str, ago: str, searches: int) -> None:
    await connection.execute(
        "INSERT INTO minutes VALUES ($1, date_trunc('minute', now()) - $2::text::interval, $3)", client, ago, searches
    )


async def test_an_empty_database_has_no_collectors(owner: asyncpg.Connection) -> None:
    assert await overview.overview(owner) == []


async def test_a_collector_that_has_only_claimed_its_name(owner: asyncpg.Connection) -> None:
    await owner.execute("SELECT claim_collector('eu')")
    (eu,) = await overview.overview(owner)
    assert (eu.client_id, eu.listening, eu.stretch, eu.last_batch_at, eu.status) == ("eu", False, None, None, {})
    assert (eu.kept_minute, eu.kept_hour, eu.kept_day, eu.gaps, eu.missing) == (0, 0, 0, 0, 0)


async def test_each_collector_with_what_it_heard_lately(owner: asyncpg.Connection) -> None:
    for client in ("us", "eu"):
        await _collector(owner, client)
    for ago, searches in {"0": 40, "30 minutes": 300, "20 hours": 5000, "25 hours": 70_000}.items():
        await _kept(owner, "eu", ago, searches)
    eu, us = await overview.overview(owner)
    assert (eu.kept_minute, eu.kept_hour, eu.kept_day) == (40, 340, 5340)
    assert (us.kept_minute, us.kept_hour, us.kept_day) == (0, 0, 0)
    assert eu.status == {"spool": 3}


async def test_the_last_minute_slides(owner: asyncpg.Connection) -> None:
    await _collector(owner, "eu")
    async with owner.transaction():  # in which now() stands still
        await _kept(owner, "eu", "1 minute", 6000)
        await _kept(owner, "eu", "2 minutes", 6000)
        second = await owner.fetchval("SELECT extract(second FROM now())::double precision")
        (eu,) = await overview.overview(owner)
    assert eu.kept_minute == pytest.approx(6000 * (1 - second / 60), abs=1)


async def test_the_newest_stretch_is_shown(owner: asyncpg.Connection) -> None:
    await _collector(owner, "eu")
    await _stretch(owner, "eu", ago=timedelta(hours=9), end_reason="kicked")
    await _stretch(
        owner,
        "eu",
        ago=timedelta(hours=2),
        branch_level=4,
        branch_root="key.root",
        kept=17,
        refused=2,
        reasons=json.dumps({"not from parent": 2}),
        clock_offset_ms=-3.5,
        clock_synchronised=True,
    )
    (eu,) = await overview.overview(owner)
    assert eu.listening
    assert eu.stretch is not None
    assert (eu.stretch.role, eu.stretch.branch_level, eu.stretch.branch_root) == ("child", 4, "key.root")
    assert (eu.stretch.kept, eu.stretch.refused, eu.stretch.reasons) == (17, 2, {"not from parent": 2})
    assert (eu.stretch.end_reason, eu.stretch.clock_offset_ms, eu.stretch.clock_round_trip_ms) == (None, -3.5, None)
    assert datetime.now(UTC) - eu.stretch.started_at == pytest.approx(timedelta(hours=2), abs=timedelta(minutes=1))


async def test_a_collector_that_was_killed_does_not_listen(owner: asyncpg.Connection) -> None:
    await _collector(owner, "eu", silent_for=timedelta(seconds=61))
    await _stretch(owner, "eu", ago=timedelta(hours=2))
    (eu,) = await overview.overview(owner)
    assert not eu.listening
    (eu,) = await overview.overview(owner, silent_after=timedelta(minutes=2))
    assert eu.listening


async def test_a_collector_whose_stretch_has_ended_does_not_listen(owner: asyncpg.Connection) -> None:
    await _collector(owner, "eu")
    await _stretch(owner, "eu", ago=timedelta(hours=2), end_reason="starved")
    (eu,) = await overview.overview(owner)
    assert not eu.listening
    assert eu.stretch is not None
    assert eu.stretch.end_reason == "starved"


async def test_gaps_are_counted(owner: asyncpg.Connection) -> None:
    await _collector(owner, "eu")
    for searches in (5, None, 7):
        await owner.execute(
            "INSERT INTO gaps (client_id, started_at, ended_at, reason, searches) "
            "VALUES ('eu', now(), now(), 'lost', $1)",
            searches,
        )
    (eu,) = await overview.overview(owner)
    assert (eu.gaps, eu.missing) == (3, 12)


async def test_whoever_reads_may_see_it(database: str, owner: asyncpg.Connection) -> None:
    await _collector(owner, "eu")
    for role in (Role.ARCHIVIST, Role.ANALYST):
        async with databases.connected(database, role=role) as connection:
            assert [collector.client_id for collector in await overview.overview(connection)] == ["eu"]
