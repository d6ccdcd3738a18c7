"""Which months an archive run takes up, and what is said of those that it leaves."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from flows import months
from flows.months import Candidate
from soulseek_research.storage.archive.month import Month
from soulseek_research.storage.location import Location
from tests import databases

THIS_MONTH = Month.of(datetime.now(UTC))
LAST, BEFORE = THIS_MONTH.plus(-1), THIS_MONTH.plus(-2)
LATER = LAST.end + timedelta(days=8)


@pytest.fixture
async def filled(database: str) -> Location:
    """A database with two finished months, and one that goes on."""
    async with databases.connected(database) as connection:
        for month in (BEFORE, LAST, THIS_MONTH):
            await connection.execute("SELECT ensure_partition($1)", month.first_day)
            await connection.execute(
                "INSERT INTO searches (timestamp, ticket, source, client_id, username, query) "
                "VALUES ($1, 1, 1, 'eu', 'k.someone', 'something')",
                month.start,
            )
    return Location(database)


async def would(database: Location, candidate: Candidate, *, keep: bool = False) -> list[dict[str, Any]]:
    async with database.session() as connection:
        return await months.plan(connection, candidate, keep=keep)


async def test_every_finished_month_is_taken_up(filled: Location) -> None:
    before, last = await months.candidates(filled, None, now=LATER)
    assert (before.month, before.droppable, before.waiting, before.due) == (BEFORE, True, None, True)
    assert (last.month, last.droppable, last.waiting, last.due) == (LAST, False, None, True)
    (line,) = await would(filled, before)
    assert line == {
        "month": str(BEFORE),
        "part": None,
        "state": "live",
        "would": "seal, export, verify, record, drop",
        "because": None,
    }
    (line,) = await would(filled, last)
    assert (line["would"], line["because"]) == (
        "seal, export, verify, record",
        "its table stays: retention keeps it queryable",
    )
    (line,) = await would(filled, before, keep=True)
    assert (line["would"], line["because"]) == ("seal, export, verify, record", "its table stays: --keep")


async def test_a_month_that_is_not_over_is_only_taken_up_by_name_and_waits(filled: Location) -> None:
    (candidate,) = await months.candidates(filled, [THIS_MONTH], now=LATER)
    assert candidate.waiting is not None
    assert "is not over" in candidate.waiting
    (line,) = await would(filled, candidate)
    assert (line["would"], line["because"]) == ("nothing", candidate.waiting)


async def test_of_a_month_without_searches_there_is_nothing(filled: Location) -> None:
    (candidate,) = await months.candidates(filled, [THIS_MONTH.plus(-9)], now=LATER)
    assert (candidate.due, candidate.waiting) == (False, None)
    (line,) = await would(filled, candidate)
    assert (line["would"], line["because"]) == ("nothing", "nothing of it is in the database")


async def test_a_table_that_retention_lets_go_later_is_taken_up_again_then(filled: Location) -> None:
    async with databases.connected(filled.dsn) as connection:
        await connection.fetchval("SELECT seal_month($1)", LAST.first_day)
        await connection.fetchval("SELECT seal_month($1)", BEFORE.first_day)
        await connection.execute("UPDATE archives SET state = 'archived', record_count = 1")
    (before,) = await months.candidates(filled, None, now=LATER)
    assert (before.month, before.due) == (BEFORE, False)
    (line,) = await would(filled, before)
    assert (line["part"], line["state"], line["would"], line["because"]) == (1, "archived", "drop", None)
    assert await months.candidates(filled, None, keep=True, now=LATER) == []
    taken = await months.candidates(filled, None, now=THIS_MONTH.end + timedelta(days=8))
    assert [(one.month, one.droppable) for one in taken] == [(BEFORE, True), (LAST, True), (THIS_MONTH, False)]


async def test_what_somebody_restored_is_left_alone(filled: Location) -> None:
    async with databases.connected(filled.dsn) as connection:
        await connection.fetchval("SELECT seal_month($1)", BEFORE.first_day)
        await connection.execute("UPDATE archives SET state = 'archived', restored_at = now()")
    assert BEFORE not in [one.month for one in await months.candidates(filled, None, now=LATER)]
    (candidate,) = await months.candidates(filled, [BEFORE], now=LATER)
    (line,) = await would(filled, candidate)
    assert (line["would"], line["because"]) == ("nothing", "it is archived")


async def test_a_part_that_has_come_half_way_goes_on_from_there(filled: Location) -> None:
    async with databases.connected(filled.dsn) as connection:
        await connection.fetchval("SELECT seal_month($1)", BEFORE.first_day)
        await connection.execute("UPDATE archives SET state = 'exported'")
        await connection.execute("SELECT ensure_partition($1)", BEFORE.first_day)
        await connection.execute(
            "INSERT INTO searches (timestamp, source, client_id, username, query) VALUES ($1, 1, 'us', 'k.x', 'late')",
            BEFORE.start,
        )
    first, second = await would(filled, (await months.candidates(filled, [BEFORE], now=LATER))[0])
    assert (first["part"], first["would"]) == (1, "verify, record, drop")
    assert (second["part"], second["would"]) == (None, "seal, export, verify, record, drop")
