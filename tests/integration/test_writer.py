import asyncio
import logging
import shutil
import sqlite3
import time
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from collectors import backlog, coverage, delivery, reconcile
from collectors.counts import IMPOSSIBLE_TIME, SPOOL_FULL
from collectors.refill import refill
from collectors.writer import Pace
from soulseek_research.storage import migrations
from tests import databases
from tests.collecting import Collecting, assert_exactly_once, connector

DAY_MS = 86_400_000


async def rows(dsn: str, query: str) -> list[dict[str, Any]]:
    async with databases.connected(dsn) as connection:
        return [dict(row) for row in await connection.fetch(query)]


async def gaps(dsn: str) -> dict[str, int | None]:
    return {row["reason"]: row["searches"] for row in await rows(dsn, "SELECT * FROM gaps ORDER BY id")}


async def test_what_is_heard_is_stored_with_everything_that_is_known_of_it(database: str, tmp_path: Path) -> None:
    before = int(time.time() * 1000)
    async with Collecting(database, tmp_path) as collecting:
        collecting.hear("first", "second ☃")
        await collecting.flush()
        await collecting.drained()
        assert collecting.writer.state.connected
        assert collecting.writer.state.clock is not None
        assert abs(collecting.writer.state.clock.offset_ms) < 1000
    await assert_exactly_once(database, ["first", "second ☃"])
    (first, second) = await rows(database, "SELECT * FROM searches ORDER BY id")
    assert before <= first["timestamp"].timestamp() * 1000 <= time.time() * 1000
    assert (first["ticket"], first["source"], first["flags"], first["client_id"]) == (7, 1, 0, "eu")
    assert second["query"] == "second ☃"
    (stretch,) = await rows(database, "SELECT * FROM coverage")
    assert (stretch["role"], stretch["branch_root"], stretch["end_reason"]) == (
        "child", "pseudonym of root", coverage.STOPPED,
    )  # fmt: skip
    assert stretch["started_at"] <= first["timestamp"] <= stretch["ended_at"]
    (collector,) = await rows(database, "SELECT * FROM collectors")
    assert collector["status"] == '{"kept": 2}'
    assert {row["ended"] for row in await rows(database, "SELECT ended FROM spool_segments")} == {"drained"}
    assert await gaps(database) == {}


async def test_batches_wait_for_500_searches_or_their_time(database: str, tmp_path: Path) -> None:
    slow = Pace(batch_seconds=60)
    async with Collecting(database, tmp_path, pace=slow) as collecting:
        await collecting.flush()
        await collecting.drained()
        for _ in range(4):
            collecting.hear_many(100)
            await collecting.flush()
        await asyncio.sleep(0.2)
        assert collecting.writer.state.rows == 0
        collecting.hear_many(100)
        await collecting.flush()
        await collecting.drained()
        assert collecting.writer.state.rows == 500
    await assert_exactly_once(database, collecting.heard)


async def test_a_backlog_goes_in_big_batches_across_months_and_segments(database: str, tmp_path: Path) -> None:
    collecting = Collecting(database, tmp_path)
    now = int(time.time() * 1000)
    collecting.ledger.place("child", 1, "root", time.time() - 200 * 86_400)
    for days in range(150, 0, -5):
        for n in range(20):
            collecting.hear(*(f"{days} {n} {m}" for m in range(100)), timestamp_ms=now - days * DAY_MS)
            await collecting.flush()
        if days % 50 == 0:
            await collecting.open_segment()
    collecting.start()
    await collecting.drained()
    await collecting.stop()
    await assert_exactly_once(database, collecting.heard)
    assert (
        len(
            {
                row["month"]
                for row in await rows(database, "SELECT date_trunc('month', timestamp) AS month FROM searches")
            }
        )
        >= 5
    )
    assert {row["ended"] for row in await rows(database, "SELECT ended FROM spool_segments")} == {"drained"}


async def test_with_no_connection_to_spare_a_backlog_goes_over_one(database: str, login: str, tmp_path: Path) -> None:
    async with databases.connected(database) as connection:
        await connection.execute(f"GRANT soulseek_research_collector TO {login}; ALTER ROLE {login} CONNECTION LIMIT 2")
    collecting = Collecting(databases.as_user(database, login), tmp_path)
    for _ in range(20):
        collecting.hear_many(1000)
        await collecting.flush()
    collecting.start()
    await collecting.drained()
    assert collecting.writer.state.error is None
    await collecting.stop()
    await assert_exactly_once(database, collecting.heard)


async def test_a_search_that_the_database_refuses_holds_up_no_other(
    database: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with Collecting(database, tmp_path) as collecting:
        collecting.hear_many(700)
        collecting.hear("a NUL \0 here")
        collecting.hear_many(300)
        collecting.hear("a lone \ud800 surrogate")
        await collecting.flush()
        await collecting.drained()
        assert collecting.writer.state.dropped == {delivery.REFUSED: 2}
    good = [query for query in collecting.heard if "\0" not in query and "\ud800" not in query]
    await assert_exactly_once(database, good, coverage_too=False)
    assert await gaps(database) == {delivery.REFUSED: 2}
    assert "1002 searches" not in caplog.text


@pytest.mark.parametrize(
    "code",
    [
        "22021",  # not of one search, but of all of them
        "22023",  # what advance_segment says of synchronous_commit
        "40001",
        "42501",
        "53100",  # disk full
        "57014",
        "XX000",
    ],
)
async def test_a_database_that_refuses_everything_is_waited_for(database: str, tmp_path: Path, code: str) -> None:
    async with databases.connected(database) as connection:
        await connection.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{code}'; END$$; "
            "CREATE TRIGGER refuse BEFORE INSERT ON searches FOR EACH ROW EXECUTE FUNCTION refuse()"
        )
        async with Collecting(database, tmp_path) as collecting:
            collecting.hear_many(100)
            await collecting.flush()
            await collecting.in_trouble()
            await connection.execute("DROP TRIGGER refuse ON searches")
            await collecting.drained()
    await assert_exactly_once(database, collecting.heard)
    assert await gaps(database) == {}


async def test_a_word_of_the_ledger_that_the_database_refuses_holds_up_no_search(database: str, tmp_path: Path) -> None:
    async with Collecting(database, tmp_path) as collecting:
        collecting.ledger.lost("a reason with NUL \0")
        collecting.hear_many(10)
        collecting.ledger.lost("a reason with NUL \0")
        collecting.hear_many(10)
        await collecting.flush()
        await collecting.drained()
    await assert_exactly_once(database, collecting.heard, coverage_too=False)
    assert [row["kept"] for row in await rows(database, "SELECT kept FROM coverage")] == [10]


async def test_searches_of_months_that_cannot_be_are_a_gap(database: str, tmp_path: Path) -> None:
    async with Collecting(database, tmp_path) as collecting:
        now = int(time.time() * 1000)
        collecting.hear_many(5)
        for impossible in (0, now + 100 * DAY_MS, now - 500 * DAY_MS, 10**17):
            collecting.hear(f"at {impossible}", timestamp_ms=impossible)
        await collecting.flush()
        await collecting.drained()
    await assert_exactly_once(database, collecting.heard[:5], coverage_too=False)
    assert await gaps(database) == {IMPOSSIBLE_TIME: 4}


async def test_a_damaged_chunk_is_a_gap_and_the_next_one_gets_through(database: str, tmp_path: Path) -> None:
    collecting = Collecting(database, tmp_path)
    for _ in range(3):
        collecting.hear_many(10)
        await collecting.flush()
    with sqlite3.connect(collecting.path) as spool:
        spool.execute("UPDATE chunks SET searches = replace(searches, '15', '51') WHERE position = 2")
    spool.close()
    collecting.start()
    await collecting.drained()
    await collecting.stop()
    await assert_exactly_once(database, collecting.heard[:10] + collecting.heard[20:], coverage_too=False)
    assert await gaps(database) == {backlog.DAMAGED: 10}


async def test_a_full_spool_is_one_gap_in_the_database(database: str, tmp_path: Path) -> None:
    collecting = Collecting(database, tmp_path)
    collecting.hear_many(10)
    await collecting.flush()
    for _ in range(3):
        collecting.hear_many(7)
        rows_refused, collecting._buffer = collecting._buffer, []
        collecting.ledger.dropped(collecting.ledger.snapshot(time.time()), rows_refused, SPOOL_FULL)
        await collecting.flush()
    collecting.start()
    await collecting.drained()
    await collecting.stop()
    await assert_exactly_once(database, collecting.heard)
    assert await gaps(database) == {SPOOL_FULL: 21}
    assert await rows(database, "SELECT sum(dropped) AS dropped FROM coverage") == [{"dropped": 21}]


async def test_after_a_kill_the_next_process_sends_the_rest_and_ends_the_stretch_where_it_was(
    database: str, tmp_path: Path
) -> None:
    first = Collecting(database, tmp_path)
    first.start()
    first.hear_many(100)
    await first.flush()
    await first.drained()
    await asyncio.sleep(0.05)
    first.hear_many(50)
    await first.flush()
    last_heard = time.time()
    await first.die()
    await asyncio.sleep(0.3)
    async with Collecting(database, tmp_path) as second:
        second.hear_many(10)
        await second.flush()
        await second.drained()
    await assert_exactly_once(database, first.heard + second.heard)
    stretches = await rows(database, "SELECT * FROM coverage ORDER BY started_at")
    assert [(row["kept"], row["end_reason"]) for row in stretches] == [
        (150, coverage.PROCESS_DIED),
        (10, coverage.STOPPED),
    ]
    assert stretches[0]["ended_at"].timestamp() <= last_heard + 0.01
    assert await gaps(database) == {}


async def test_a_spool_that_was_replaced_is_a_gap_with_an_error(
    database: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = Collecting(database, tmp_path)
    first.start()
    first.hear_many(100)
    await first.flush()
    await first.drained()
    await first.die()
    shutil.rmtree(tmp_path)
    for _ in range(2):
        async with Collecting(database, tmp_path) as second:
            second.hear_many(10)
            await second.flush()
            await second.drained()
        first.heard += second.heard
    await assert_exactly_once(database, first.heard)
    assert await gaps(database) == {reconcile.SPOOL_LOST: None}
    assert [record.levelname for record in caplog.records if "was replaced" in record.message] == ["ERROR"]
    assert len(await rows(database, "SELECT * FROM gaps")) == 1


async def test_a_spool_that_was_rolled_back_or_copied_is_never_written_twice(
    database: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two machines go on from one image, the same segment on both."""
    first = Collecting(database, tmp_path)
    first.start()
    first.hear_many(10)
    await first.flush()
    await first.drained()
    await first.die()
    (tmp_path / "copy").mkdir()
    shutil.copy(first.path, tmp_path / "copy")
    went_on = reopened(first, tmp_path)
    went_on.hear_many(20)
    await went_on.flush()
    went_on.start()
    await went_on.drained()
    await went_on.die()
    rolled_back = reopened(first, tmp_path / "copy")
    rolled_back.hear_many(30)
    for _ in range(2):
        await rolled_back.flush()
    lost = len(rolled_back.heard)
    rolled_back.start()
    await rolled_back.drained()
    assert rolled_back.segment.segment_id != first.segment.segment_id, "what is heard now has a segment of its own"
    rolled_back.hear_many(5)
    await rolled_back.flush()
    await rolled_back.drained()
    await rolled_back.stop()
    async with Collecting(database, tmp_path / "copy"):
        pass  # reported once, not at every start
    await assert_exactly_once(database, first.heard + went_on.heard + rolled_back.heard[lost:], coverage_too=False)
    assert await gaps(database) == {reconcile.DIVERGED: lost}
    assert len(await rows(database, "SELECT * FROM gaps")) == 1
    assert any(record.levelname == "ERROR" and "rolled back" in record.message for record in caplog.records)


def reopened(collecting: Collecting, folder: Path) -> Collecting:
    """The same process on another machine: its segment goes on there."""
    other = Collecting(collecting.dsn, folder)
    with other.spool._file.transaction() as connection:
        connection.execute("DELETE FROM segments WHERE segment_id = ?", (str(other.segment.segment_id),))
    other.spool._current = 1
    other.writer._assignment.first_segment = collecting.segment.segment_id
    other.segment = collecting.segment
    return other


@pytest.fixture
async def backup(database: str, server_dsn: str) -> Any:
    """Makes a copy of the database, and puts it in the original's place later, as a restored backup."""
    name = urlsplit(database).path.removeprefix("/")
    async with databases.connected(server_dsn) as connection:

        async def copy(old: str, new: str) -> None:
            await connection.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{old}'")
            await connection.execute(f"CREATE DATABASE {new} TEMPLATE {old}")

        async def make() -> None:
            await copy(name, f"{name}_backup")

        async def restore() -> None:
            await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
            await connection.execute(f"ALTER DATABASE {name}_backup RENAME TO {name}")

        yield make, restore


async def test_a_database_restored_from_a_backup_is_filled_up_again(database: str, tmp_path: Path, backup: Any) -> None:
    make, restore = backup
    first = Collecting(database, tmp_path)
    first.start()
    first.hear_many(10)
    await first.flush()
    await first.drained()
    await first.die()
    await make()
    async with Collecting(database, tmp_path) as second:
        for _ in range(3):
            second.hear_many(10)
            await second.flush()
        await second.drained()
        second.hear_many(10)
        await restore()
        await second.flush()
        await asyncio.sleep(0.5)
        await second.drained()
    await assert_exactly_once(database, first.heard + second.heard)
    assert await gaps(database) == {}


async def test_what_the_spool_has_pruned_since_the_backup_is_a_gap(database: str, tmp_path: Path, backup: Any) -> None:
    make, restore = backup
    async with Collecting(database, tmp_path) as before:
        before.hear_many(10)
        await before.flush()
        await before.drained()
    await make()
    async with Collecting(database, tmp_path, retain_seconds=0) as after:
        after.hear_many(10)
        await after.flush()
        await after.drained()
        await after.in_thread(lambda: after.spool.prune(int(time.time() * 1000) + 1000))
        await restore()
        for _ in range(2):
            after.hear_many(10)
            await after.flush()
            await asyncio.sleep(0.3)
        await after.drained()
    await assert_exactly_once(database, before.heard + after.heard[10:], coverage_too=False)
    assert await gaps(database) == {reconcile.PRUNED: None}
    assert len(await rows(database, "SELECT * FROM gaps")) == 1


async def test_another_database_gets_what_none_has_unless_it_is_to_be_filled_up(
    database: str, empty_database: str, server_dsn: str, template: str, tmp_path: Path
) -> None:
    async with Collecting(database, tmp_path) as first:
        first.hear_many(10)
        await first.flush()
        await first.drained()
        first.hear_many(5)
        await first.writer.close(5)
        await first.flush()
    async with databases.fresh(server_dsn, f"TEMPLATE {template}") as other:
        async with databases.connected(other) as connection:
            await connection.execute("UPDATE database_identity SET database_id = gen_random_uuid()")
        async with Collecting(other, tmp_path) as second:
            second.hear_many(20)
            await second.flush()
            await second.drained()
        await assert_exactly_once(other, first.heard[10:] + second.heard, coverage_too=False)
        await assert_exactly_once(database, first.heard[:10], coverage_too=False)
    async with databases.fresh(server_dsn, f"TEMPLATE {template}") as third:
        async with databases.connected(third) as connection:
            await connection.execute("UPDATE database_identity SET database_id = gen_random_uuid()")
        assert await refill(connector(third), "eu", first.path) == 0
        await assert_exactly_once(third, [])
        assert await refill(connector(third), "eu", first.path, other_databases=True) == len(first.heard + second.heard)
        await assert_exactly_once(third, first.heard + second.heard)
        assert await refill(connector(third), "eu", first.path, other_databases=True) == 0


async def test_a_database_that_is_not_migrated_is_waited_for(empty_database: str, tmp_path: Path) -> None:
    async with Collecting(empty_database, tmp_path) as collecting:
        collecting.hear_many(10)
        await collecting.flush()
        assert "soulseek-research migrate" in await collecting.in_trouble()
        async with databases.connected(empty_database) as connection:
            await migrations.migrate(connection)
        await collecting.drained()
    await assert_exactly_once(empty_database, collecting.heard)


async def test_changes_of_state_are_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "collectors.writer")
    async with Collecting("postgresql://nobody@127.0.0.1:1/nothing", tmp_path) as collecting:
        collecting.hear_many(10)
        await collecting.flush()
        await asyncio.sleep(1)
        assert not collecting.writer.state.connected
        assert collecting.writer.state.error is not None
        began = time.monotonic()
    assert time.monotonic() - began < 5
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1


async def test_a_partition_that_was_taken_away_is_made_again(database: str, tmp_path: Path) -> None:
    async with Collecting(database, tmp_path) as collecting:
        collecting.hear_many(10)
        await collecting.flush()
        await collecting.drained()
        async with databases.connected(database) as connection:
            month = await connection.fetchval("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY_MM')")
            await connection.execute(f"DROP TABLE searches_{month}")
        collecting.hear_many(10)
        await collecting.flush()
        await collecting.drained()
    assert [row["query"] for row in await rows(database, "SELECT query FROM searches ORDER BY id")] == collecting.heard[
        10:
    ]


def test_a_segment_is_compared_by_position_and_digest() -> None:
    here, elsewhere = uuid.uuid4(), uuid.uuid4()

    def found(
        committed: int, acknowledged: int, digest: bytes | None = b"same", of: uuid.UUID = here, pruned: int = 0
    ) -> reconcile.Finding:
        segment = reconcile.SegmentState(uuid.uuid4(), 0, 10, acknowledged, of, pruned)
        return reconcile.compare(segment, reconcile.Committed(committed, b"same", None), digest, here)

    assert (found(5, 5).cursor, found(5, 5).acknowledge) == (backlog.Cursor(5, 5), None)
    assert (found(7, 5).cursor, found(7, 5).acknowledge) == (backlog.Cursor(7, 7), 7)
    assert (found(3, 5).cursor, found(3, 5).acknowledge) == (backlog.Cursor(3, 3), 3)
    assert (found(3, 5, None, pruned=4).cursor, found(3, 5, None, pruned=4).pruned) == (backlog.Cursor(3, 4), 1)
    assert found(0, 5, None, elsewhere).cursor == backlog.Cursor(0, 5)
    assert found(7, 5, b"same", elsewhere).cursor == backlog.Cursor(7, 7)
    assert found(11, 5).diverged
    assert found(5, 5, b"other").diverged
    assert found(5, 5, b"other").cursor.closed
