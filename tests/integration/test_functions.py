"""What a collector may do in the database besides inserting: migrations/0003_functions.sql."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from asyncpg import exceptions

from soulseek_research.storage.database import Role
from tests import databases

NOW = datetime.now(UTC).replace(microsecond=0)
FENCED_OFF = exceptions.ObjectNotInPrerequisiteStateError


@pytest.fixture
async def collector(database: str) -> AsyncIterator[asyncpg.Connection]:
    async with databases.connected(database, role=Role.COLLECTOR) as connection:
        yield connection


@pytest.fixture
async def owner(database: str) -> AsyncIterator[asyncpg.Connection]:
    async with databases.connected(database) as connection:
        yield connection


async def _claim(connection: asyncpg.Connection, client: str = "eu") -> int:
    return int(await connection.fetchval("SELECT claim_collector($1)", client))


async def _advance(
    connection: asyncpg.Connection,
    token: int,
    segment: uuid.UUID,
    start: int,
    end: int,
    *,
    client: str = "eu",
    stretches: list[dict[str, Any]] | None = None,
    kept: dict[str, int] | None = None,
) -> None:
    await connection.execute(
        "SELECT advance_segment($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        client,
        token,
        segment,
        NOW,
        start,
        end,
        f"digest {end}".encode(),
        end + 5,
        json.dumps(stretches or []),
        json.dumps(kept or {}),
        json.dumps({"position": end}),
    )


def _stretch(stretch_id: uuid.UUID, **changed: Any) -> dict[str, Any]:
    return {
        "stretch_id": str(stretch_id),
        "started_at": NOW.isoformat(),
        "ended_at": NOW.isoformat(),
        "end_reason": None,
        "role": "child",
        "branch_level": 2,
        "branch_root": "key.root",
        "kept": 1,
        "duplicates": 0,
        "refused": 0,
        "dropped": 0,
        "reasons": {},
        "clock_offset_ms": 1.5,
        "clock_round_trip_ms": 0.5,
        "clock_synchronised": True,
        **changed,
    }


async def test_a_segment_moves_on_only_from_where_it_is(collector: asyncpg.Connection) -> None:
    token, segment = await _claim(collector), uuid.uuid4()
    await _advance(collector, token, segment, 0, 3)
    for start in (0, 2, 4):
        with pytest.raises(exceptions.SerializationError):
            await _advance(collector, token, segment, start, 9)
    await _advance(collector, token, segment, 3, 4)
    rows = await collector.fetch("SELECT * FROM segment_positions('eu', $1)", [segment, uuid.uuid4()])
    assert [tuple(row)[:3] for row in rows] == [(segment, 4, b"digest 4")]


async def test_a_segment_belongs_to_one_client_id(collector: asyncpg.Connection) -> None:
    segment = uuid.uuid4()
    await _advance(collector, await _claim(collector), segment, 0, 1)
    token = await _claim(collector, "us")
    with pytest.raises(exceptions.SerializationError):
        await _advance(collector, token, segment, 1, 2, client="us")
    assert await collector.fetch("SELECT * FROM segment_positions('us', $1)", [segment]) == []


async def test_after_a_new_claim_nothing_of_the_old_holder_is_taken(collector: asyncpg.Connection) -> None:
    old, segment = await _claim(collector), uuid.uuid4()
    await _advance(collector, old, segment, 0, 1)
    assert await _claim(collector) == old + 1
    for statement, arguments in {
        "SELECT check_fence('eu', $1)": [old],
        "SELECT record_coverage('eu', $1, $2, '[]')": [old, segment],
        "SELECT record_gap('eu', $1, $2, now(), now(), 'lost', 1, NULL)": [old, segment],
        "SELECT record_gaps('eu', $1, $2, '[]')": [old, segment],
        "SELECT end_segments('eu', $1, ARRAY[$2::uuid], 'lost')": [old, segment],
        "SELECT close_open_stretches('eu', $1, NULL, 'died')": [old],
        "SELECT report_status('eu', $1, '{}')": [old],
    }.items():
        with pytest.raises(FENCED_OFF):
            await collector.execute(statement, *arguments)
    with pytest.raises(FENCED_OFF):
        await _advance(collector, old, segment, 1, 2)


async def test_a_claim_waits_for_the_batch_that_is_under_way(collector: asyncpg.Connection, database: str) -> None:
    old, segment = await _claim(collector), uuid.uuid4()
    async with databases.connected(database, role=Role.COLLECTOR) as successor:
        async with collector.transaction():
            await _advance(collector, old, segment, 0, 1)
            claiming = asyncio.create_task(_claim(successor))
            done, _ = await asyncio.wait([claiming], timeout=0.3)
            assert not done
        assert await claiming == old + 1
        rows = await successor.fetch("SELECT committed_position FROM segment_positions('eu', $1)", [segment])
        assert [row[0] for row in rows] == [1]


async def test_a_client_id_can_be_shown(collector: asyncpg.Connection) -> None:
    for client_id in ("e", "eu", "us-east.2", "München 1", "東京", "x" * 64):
        assert await _claim(collector, client_id) == 1
    for client_id in ("", " ", " eu", "eu ", "e\nu", "e\x1bu", "e\x85u", "x" * 65):
        with pytest.raises(exceptions.CheckViolationError, match="client_id_is_printable"):
            await _claim(collector, client_id)


async def test_no_batch_is_taken_that_a_crash_could_undo(collector: asyncpg.Connection) -> None:
    token, segment = await _claim(collector), uuid.uuid4()
    await collector.execute("SET synchronous_commit = off")
    with pytest.raises(exceptions.InvalidParameterValueError, match="synchronous_commit is off"):
        await _advance(collector, token, segment, 0, 1)
    await collector.execute("SET synchronous_commit = local")
    await _advance(collector, token, segment, 0, 1)


async def test_the_newest_word_on_a_stretch_replaces_the_older(
    collector: asyncpg.Connection, owner: asyncpg.Connection
) -> None:
    token, segment, stretch = await _claim(collector), uuid.uuid4(), uuid.uuid4()
    await _advance(collector, token, segment, 0, 1, stretches=[_stretch(stretch)])
    later = NOW + timedelta(minutes=1)
    newer = _stretch(
        stretch, ended_at=later.isoformat(), end_reason="starved", kept=9, dropped=2, reasons={"spool full": 2}
    )
    await _advance(collector, token, segment, 1, 2, stretches=[newer, _stretch(uuid.uuid4())])
    row = await owner.fetchrow("SELECT * FROM coverage WHERE stretch_id = $1", stretch)
    assert row is not None
    assert (row["started_at"], row["ended_at"], row["end_reason"]) == (NOW, later, "starved")
    assert (row["kept"], row["dropped"], json.loads(row["reasons"])) == (9, 2, {"spool full": 2})
    assert await owner.fetchval("SELECT count(*) FROM coverage") == 2


async def test_nobody_rewrites_the_stretch_of_another(collector: asyncpg.Connection, owner: asyncpg.Connection) -> None:
    stretch = uuid.uuid4()
    await _advance(collector, await _claim(collector), uuid.uuid4(), 0, 1, stretches=[_stretch(stretch)])
    token = await _claim(collector, "us")
    await _advance(collector, token, uuid.uuid4(), 0, 1, client="us", stretches=[_stretch(stretch, kept=99)])
    assert [tuple(row) for row in await owner.fetch("SELECT client_id, kept FROM coverage")] == [("eu", 1)]


async def test_a_time_without_a_zone_is_utc(database: str, owner: asyncpg.Connection) -> None:
    async with databases.connected(database, timezone="Asia/Tokyo", role=Role.COLLECTOR) as collector:
        token = await _claim(collector)
        naive = NOW.replace(tzinfo=None).isoformat()
        stretch = _stretch(uuid.uuid4(), started_at=naive, ended_at=naive)
        await _advance(collector, token, uuid.uuid4(), 0, 1, stretches=[stretch], kept={"2026-01-31T23:59:00": 2})
    assert await owner.fetchval("SELECT started_at FROM coverage") == NOW
    assert await owner.fetchval("SELECT minute FROM minutes") == datetime(2026, 1, 31, 23, 59, tzinfo=UTC)


async def test_minutes_add_up(collector: asyncpg.Connection, owner: asyncpg.Connection) -> None:
    token, segment = await _claim(collector), uuid.uuid4()
    await _advance(collector, token, segment, 0, 1, kept={"2026-01-01T00:00:00Z": 3, "2026-01-01T00:01:00Z": 4})
    await _advance(collector, token, segment, 1, 2, kept={"2026-01-01T00:01:00Z": 5})
    rows = await owner.fetch("SELECT kept FROM minutes WHERE client_id = 'eu' ORDER BY minute")
    assert [row[0] for row in rows] == [3, 9]


async def test_a_batch_is_all_or_nothing(collector: asyncpg.Connection, owner: asyncpg.Connection) -> None:
    token, segment = await _claim(collector), uuid.uuid4()
    nonsense = _stretch(uuid.uuid4(), role="king")
    with pytest.raises(exceptions.CheckViolationError):
        await _advance(collector, token, segment, 0, 1, stretches=[nonsense], kept={"2026-01-01T00:00:00Z": 3})
    assert await collector.fetch("SELECT * FROM segment_positions('eu', $1)", [segment]) == []
    assert await owner.fetchval("SELECT count(*) FROM minutes") == 0


async def test_a_growing_gap_is_one(collector: asyncpg.Connection, owner: asyncpg.Connection) -> None:
    token, segment, gap = await _claim(collector), uuid.uuid4(), str(uuid.uuid4())
    for searches in (10, 25):
        form = {
            "gap_id": gap,
            "reason": "spool full",
            "started_at": NOW.isoformat(),
            "ended_at": (NOW + timedelta(seconds=searches)).isoformat(),
            "searches": searches,
        }
        await collector.execute("SELECT record_gaps('eu', $1, $2, $3)", token, segment, json.dumps([form]))
    await collector.execute("SELECT record_gap('eu', $1, NULL, $2, $2, 'spool lost', NULL, 'why')", token, NOW)
    rows = await owner.fetch("SELECT reason, searches, ended_at - started_at FROM gaps ORDER BY id")
    assert [tuple(row) for row in rows] == [
        ("spool full", 25, timedelta(seconds=25)),
        ("spool lost", None, timedelta(0)),
    ]


async def test_a_spool_that_was_replaced_is_noticed_once(collector: asyncpg.Connection) -> None:
    token, held, gone = await _claim(collector), uuid.uuid4(), uuid.uuid4()
    for segment in (held, gone):
        await _advance(collector, token, segment, 0, 7)
    missing = await collector.fetch("SELECT * FROM missing_segments('eu', $1)", [held])
    assert [(row["segment_id"], row["committed_position"], row["spooled_position"]) for row in missing] == [
        (gone, 7, 12)
    ]
    await collector.execute("SELECT end_segments('eu', $1, $2, 'lost')", token, [gone])
    assert await collector.fetch("SELECT * FROM missing_segments('eu', $1)", [held]) == []


async def test_a_killed_collectors_stretches_are_closed_where_they_were_last_known(
    collector: asyncpg.Connection, owner: asyncpg.Connection
) -> None:
    token, killed, present = await _claim(collector), uuid.uuid4(), uuid.uuid4()
    await _advance(collector, token, killed, 0, 1, stretches=[_stretch(uuid.uuid4())])
    await _advance(collector, token, present, 0, 1, stretches=[_stretch(uuid.uuid4())])
    assert await collector.fetchval("SELECT close_open_stretches('eu', $1, $2, 'process died')", token, present) == 1
    rows = await owner.fetch("SELECT segment_id, ended_at FROM coverage WHERE end_reason = 'process died'")
    assert [tuple(row) for row in rows] == [(killed, NOW)]


async def test_of_ten_first_keys_one_is_registered(database: str) -> None:
    async def register(number: int) -> bool:
        async with databases.connected(database, role=Role.COLLECTOR) as connection:
            return bool(
                await connection.fetchval("SELECT register_first_key($1, $2, 'aes-siv')", f"k{number}", f"f{number}")
            )

    assert sorted(await asyncio.gather(*(register(number) for number in range(10)))) == [False] * 9 + [True]
