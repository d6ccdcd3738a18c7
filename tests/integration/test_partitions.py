import asyncio
from datetime import UTC, date, datetime, timedelta

import asyncpg
import pytest
from asyncpg import exceptions

from soulseek_research.storage.database import Role
from tests import databases

INSERT = (
    "INSERT INTO searches (timestamp, source, client_id, username, query) VALUES ($1, 1, 'eu', 'key.name', 'query')"
)
BOUNDS = """
SELECT c.relname, pg_get_expr(c.relpartbound, c.oid)
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = 'searches'::regclass ORDER BY 1
"""


def _month(ahead: int) -> date:
    """First day of the month so many months from now."""
    now = datetime.now(UTC)
    years, month = divmod(now.month - 1 + ahead, 12)
    return date(now.year + years, month + 1, 1)


def _name(month: date) -> str:
    return f"searches_{month:%Y_%m}"


async def _partitions(connection: asyncpg.Connection) -> dict[str, str]:
    await connection.execute("SET timezone = 'UTC'; SET datestyle = 'ISO'")
    return dict(await connection.fetch(BOUNDS))


async def test_this_month_and_the_next_are_made_ahead(database: str) -> None:
    async with databases.connected(database) as connection:
        assert list(await _partitions(connection)) == [_name(_month(0)), _name(_month(1))]
        await connection.execute(f"DROP TABLE {_name(_month(1))}")
        made = await connection.fetch("SELECT * FROM ensure_partitions_ahead()")
        assert [row[0] for row in made] == [_month(1)]
        assert await connection.fetch("SELECT * FROM ensure_partitions_ahead()") == []


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "America/Los_Angeles", "Asia/Kathmandu"])
async def test_a_month_is_one_in_utc_whatever_the_session_thinks(database: str, zone: str) -> None:
    month, following = _month(-2), _month(-1)
    async with databases.connected(database, timezone=zone, datestyle="German") as connection:
        assert await connection.fetchval("SELECT ensure_partition($1)", month + timedelta(days=27))
        assert not await connection.fetchval("SELECT ensure_partition($1)", month)
        bounds = (await _partitions(connection))[_name(month)]
    assert bounds == f"FOR VALUES FROM ('{month} 00:00:00+00') TO ('{following} 00:00:00+00')"


async def test_a_search_of_the_last_millisecond_is_stored_in_its_month(database: str) -> None:
    next_month = datetime.combine(_month(1), datetime.min.time(), UTC)
    async with databases.connected(database, timezone="Asia/Tokyo") as connection:
        await connection.execute(INSERT, next_month - timedelta(milliseconds=1))
        await connection.execute(INSERT, next_month)
        rows = await connection.fetch("SELECT tableoid::regclass::text FROM searches ORDER BY timestamp")
    assert [row[0] for row in rows] == [_name(_month(0)), _name(_month(1))]


async def test_no_partition_for_a_month_that_cannot_be(database: str) -> None:
    async with databases.connected(database) as connection:
        before = await _partitions(connection)
        for month in (_month(3), _month(-14), date(1970, 1, 1), date(9999, 12, 1), date.min, date.max, None):
            with pytest.raises(exceptions.DatetimeFieldOverflowError):
                await connection.execute("SELECT ensure_partition($1)", month)
        assert await _partitions(connection) == before


async def test_a_year_old_spool_still_finds_its_month(database: str) -> None:
    async with databases.connected(database, role=Role.COLLECTOR) as connection:
        for ahead in (-13, 2):
            assert await connection.fetchval("SELECT ensure_partition($1)", _month(ahead))


async def test_a_writer_does_not_hold_up_a_new_partition_nor_a_reader(database: str) -> None:
    async with (
        databases.connected(database, lock_timeout="2s") as maker,
        databases.connected(database) as writer,
        writer.transaction(),
    ):
        await writer.execute(INSERT, datetime.now(UTC))
        await writer.fetch("SELECT count(*) FROM searches")
        assert await maker.fetchval("SELECT ensure_partition($1)", _month(2))


async def test_a_new_partition_does_not_hold_up_a_writer(database: str) -> None:
    async with databases.connected(database) as maker, databases.connected(database, lock_timeout="2s") as writer:
        async with maker.transaction():
            assert await maker.fetchval("SELECT ensure_partition($1)", _month(2))
            await writer.execute(INSERT, datetime.now(UTC))
            assert await writer.fetchval("SELECT count(*) FROM searches") == 1
        # The same session, with its plans and its list of partitions, finds the new one.
        await writer.execute(INSERT, datetime.combine(_month(2), datetime.min.time(), UTC))


async def test_of_many_at_once_one_makes_the_partition(database: str) -> None:
    async def make() -> bool:
        async with databases.connected(database, role=Role.COLLECTOR) as connection:
            return bool(await connection.fetchval("SELECT ensure_partition($1)", _month(-1)))

    assert sorted(await asyncio.gather(*(make() for _ in range(10)))) == [False] * 9 + [True]


async def test_a_transaction_with_an_older_snapshot_sees_that_the_partition_is_there(database: str) -> None:
    async with (
        databases.connected(database) as early,
        databases.connected(database) as late,
        late.transaction(isolation="repeatable_read"),
    ):
        await late.fetch("SELECT count(*) FROM searches")
        await early.execute("SELECT ensure_partition($1)", _month(-1))
        assert not await late.fetchval("SELECT ensure_partition($1)", _month(-1))


async def test_a_table_that_is_in_the_way_is_named(database: str) -> None:
    async with databases.connected(database) as connection:
        await connection.execute(f"ALTER TABLE searches DETACH PARTITION {_name(_month(1))}")
        with pytest.raises(exceptions.DuplicateTableError, match=f"{_name(_month(1))} is in the way"):
            await connection.execute("SELECT ensure_partition($1)", _month(1))


async def test_ids_go_on_across_partitions_and_times_are_milliseconds(database: str) -> None:
    records = [
        (datetime.combine(month, datetime.min.time(), UTC) + timedelta(microseconds=1499), 1, "eu", "key.name", "query")
        for month in (_month(0), _month(1), _month(0))
    ]
    columns = ["timestamp", "source", "client_id", "username", "query"]
    async with databases.connected(database, role=Role.COLLECTOR) as collector:
        await collector.copy_records_to_table("searches", records=records, columns=columns)
    async with databases.connected(database) as owner:
        rows = await owner.fetch("SELECT id, timestamp FROM searches ORDER BY id")
    assert [row["id"] for row in rows] == [1, 2, 3]
    assert {row["timestamp"].microsecond for row in rows} == {1000}
