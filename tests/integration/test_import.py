"""Months of the predecessor, taken over: from its table and from a CSV of it."""

import asyncio
import base64
import contextlib
import gzip
import hashlib
import json
import os
import random
import stat
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pyarrow as pa
import pytest
from click.testing import CliRunner, Result

from collectors import cleaning
from flows.commands.import_ import import_
from soulseek_research.storage.archive import (
    adopting,
    deleting,
    fingerprint,
    locks,
    predecessor,
    predecessor_csv,
    predecessor_database,
    restoring,
    sealing,
)
from soulseek_research.storage.archive.errors import ArchiveBusyError, ArchiveError
from soulseek_research.storage.archive.month import Month
from soulseek_research.storage.archive.predecessor import Imported, Source
from soulseek_research.storage.archive.progress import Progress
from soulseek_research.storage.failures import DatabaseAwayError
from soulseek_research.storage.location import Location
from tests import databases, frozen
from tests.program import Program

TABLE = """
    CREATE TABLE searches (
        id serial PRIMARY KEY, client_id varchar(50), timestamp timestamptz, username varchar(255), query text
    )
"""
Old = tuple[str | None, datetime | None, str | None, str | None]


def hashed(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def pseudonym(name: str) -> str:
    return "sha256." + base64.urlsafe_b64encode(hashlib.sha256(name.encode()).digest()).decode().rstrip("=")


def at(*moment: int) -> datetime:
    return datetime(*moment, tzinfo=UTC)


SOUND: list[Old] = [
    ("eu", at(2025, 1, 1), hashed("ann"), "first of a month"),
    ("eu", at(2025, 1, 31, 23, 59, 59, 999_999), hashed("ann"), "its last microsecond"),
    ("us", at(2025, 3, 5, 4, 5, 6, 123_456), hashed("bob").upper(), "quotes \" ' \\N \\. and\ttabs\nand ends"),
    ("us", at(2025, 3, 5, 4, 5, 7), hashed("bob"), "x" * 5000),
    ("us", at(2025, 3, 5, 4, 5, 8), hashed("zoë"), "مرحبا 🎵"),
    ("us", at(2025, 3, 5, 4, 5, 9), hashed("zoë"), ""),
]
KEPT = [
    (at(2025, 1, 1), None, 0, 0, "eu", pseudonym("ann"), "first of a month"),
    (at(2025, 1, 31, 23, 59, 59, 999_000), None, 0, 0, "eu", pseudonym("ann"), "its last microsecond"),
    (at(2025, 3, 5, 4, 5, 6, 123_000), None, 0, 1, "us", pseudonym("bob"), "quotes \" ' \\N \\. and�tabs�and ends"),
    (at(2025, 3, 5, 4, 5, 7), None, 0, 2, "us", pseudonym("bob"), "x" * 4096),
    (at(2025, 3, 5, 4, 5, 8), None, 0, 0, "us", pseudonym("zoë"), "مرحبا 🎵"),
    (at(2025, 3, 5, 4, 5, 9), None, 0, 0, "us", pseudonym("zoë"), ""),
]
UNSOUND: list[Old] = [
    ("eu", at(2025, 1, 2), "a name in clear", "of a time when names were kept"),
    ("eu", at(2025, 1, 2), hashed("ann")[:-1] + "g", "no hex"),
    ("eu", at(2025, 1, 2), hashed("ann") + "00", "too long"),
    ("eu", at(2025, 1, 2), None, "nobody"),
    ("eu", at(1970, 1, 1), hashed("ann"), "a clock that was never set"),
    ("eu", at(2200, 1, 1), hashed("ann"), "a clock that was set wrongly"),
    ("eu", None, hashed("ann"), "never"),
]
LEFT_BEHIND = {
    "username is no SHA-256 in hex": 4,
    "before the year 2000": 1,
    "in the future": 1,
    "no time": 1,
}


@pytest.fixture
async def old(database: str) -> AsyncIterator[asyncpg.Connection]:
    """The predecessor's table: in a schema of its own, which is quicker than a database of its own."""
    async with databases.connected(database, search_path="old") as connection:
        await connection.execute("CREATE SCHEMA old")
        await connection.execute(TABLE)
        yield connection


@pytest.fixture
async def here(database: str) -> AsyncIterator[asyncpg.Connection]:
    async with databases.connected(database) as connection:
        yield connection


async def fill(old: asyncpg.Connection, rows: list[Old]) -> None:
    await old.copy_records_to_table(
        "searches", schema_name="old", records=rows, columns=("client_id", "timestamp", "username", "query")
    )


async def from_table(database: str, there: str | None = None, **how: Any) -> Imported:
    table = how.pop("table", "old.searches")
    async with predecessor_database.opened(there or database, table) as source:
        return await take(database, source, **how)


async def from_csv(database: str, path: Path, **how: Any) -> Imported:
    with predecessor_csv.opened(path, path.parent / "data") as source:
        return await take(database, source, **how)


async def take(database: str, source: Source, **how: Any) -> Imported:
    return await predecessor.import_searches(Location(database), source, clean=cleaning.clean, **how)


async def csv_of(old: asyncpg.Connection, path: Path) -> Path:
    """What COPY makes of the table."""
    with path.open("wb") as file:
        await old.copy_from_table("searches", schema_name="old", output=file, format="csv", header=True)
    return path


async def kept(here: asyncpg.Connection) -> list[tuple[Any, ...]]:
    rows = await here.fetch(
        "SELECT timestamp, ticket, source, flags, client_id, username, query FROM searches_all ORDER BY id"
    )
    return [tuple(row) for row in rows]


def months(imported: Imported) -> list[tuple[str, int | None, int, bool]]:
    return [(str(one.month), one.part, one.rows, one.already) for one in imported.months]


async def test_months_of_a_table_come_over_with_what_can_be_taken(
    old: asyncpg.Connection, database: str, here: asyncpg.Connection
) -> None:
    await fill(old, SOUND + UNSOUND)
    told: list[Progress] = []
    imported = await from_table(database, report=told.append)
    assert months(imported) == [("2025-01", 1, 2, False), ("2025-03", 1, 4, False)]
    assert imported.left_behind == LEFT_BEHIND
    assert await kept(here) == KEPT
    assert told[-1] == Progress("import", 6, 10, 0)
    # Behind the view, sealed, and with ids of their own from the sequence of all.
    assert await here.fetch("SELECT month, part, state, table_name FROM archives ORDER BY month") == [
        (at(2025, 1, 1).date(), 1, "sealed", "sealed_2025_01_part1"),
        (at(2025, 3, 1).date(), 1, "sealed", "sealed_2025_03_part1"),
    ]
    assert await here.fetchval("SELECT count(DISTINCT id) FROM searches_all") == 6
    assert {row["key_id"] for row in await here.fetch("SELECT key_id FROM imports")} == {"sha256"}


@pytest.mark.parametrize("packed", ["plain", "gzip", "zstd", "two gzips"])
async def test_a_csv_gives_the_same_as_its_table(
    old: asyncpg.Connection, database: str, here: asyncpg.Connection, tmp_path: Path, packed: str
) -> None:
    await fill(old, (SOUND + UNSOUND)[::-1])
    path = await csv_of(old, tmp_path / "searches.csv")
    plain = path.read_bytes()
    match packed:
        case "gzip":
            path.write_bytes(gzip.compress(plain))
        case "two gzips":
            path.write_bytes(gzip.compress(plain[:300]) + gzip.compress(plain[300:]))
        case "zstd":
            with pa.CompressedOutputStream(str(path), "zstd") as file:
                file.write(plain)
    imported = await from_csv(database, path)
    assert months(imported) == [("2025-01", 1, 2, False), ("2025-03", 1, 4, False)]
    assert imported.left_behind == LEFT_BEHIND
    assert sorted(await kept(here)) == sorted(KEPT, key=lambda row: row[0])
    assert not (tmp_path / "data/import").exists()


async def test_an_import_is_done_once_and_goes_on_where_it_was(
    old: asyncpg.Connection, database: str, here: asyncpg.Connection
) -> None:
    await fill(old, SOUND[:2])
    assert months(await from_table(database)) == [("2025-01", 1, 2, False)]
    # What comes to a month later than its import is not taken for another month's sake.
    await fill(old, SOUND)
    assert months(await from_table(database)) == [("2025-01", 1, 2, True), ("2025-03", 1, 4, False)]
    assert months(await from_table(database)) == [("2025-01", 1, 2, True), ("2025-03", 1, 4, True)]
    assert await kept(here) == KEPT


async def test_an_import_that_breaks_off_leaves_whole_months_and_is_resumed(
    old: asyncpg.Connection, database: str, here: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(old, SOUND)
    monkeypatch.setattr(predecessor_database, "CHUNK_ROWS", 1)

    def cut(progress: Progress) -> None:
        if progress.rows == 4:
            raise ConnectionError

    with pytest.raises(DatabaseAwayError):
        await from_table(database, report=cut)
    assert await kept(here) == KEPT[:2]
    assert months(await from_table(database)) == [("2025-01", 1, 2, True), ("2025-03", 1, 4, False)]
    assert await kept(here) == KEPT


async def test_an_imported_month_is_due_and_is_archived_and_restored_as_any_other(
    old: asyncpg.Connection, database: str, here: asyncpg.Connection, tmp_path: Path
) -> None:
    await fill(old, SOUND)
    await from_table(database)
    assert await sealing.due(here) == [Month(2025, 1), Month(2025, 3)]
    before = await here.fetch("SELECT * FROM searches_all ORDER BY id")
    work = frozen.work(database, tmp_path / "archive")
    for month in await sealing.due(here):
        (part,) = await frozen.archive(work, month)
        assert part.key_ids == ["sha256"]
        await deleting.delete(work, part)
    assert await kept(here) == []
    for month in (Month(2025, 1), Month(2025, 3)):
        await restoring.restore(work, month)
    assert await here.fetch("SELECT * FROM searches_all ORDER BY id") == before
    assert all(one.already for one in (await from_table(database)).months)


async def test_the_running_month_is_left_for_later(
    old: asyncpg.Connection, database: str, here: asyncpg.Connection, tmp_path: Path
) -> None:
    now = datetime.now(UTC) - timedelta(seconds=1)
    await fill(old, [*SOUND[:1], ("eu", now, hashed("ann"), "still going on")])
    for imported in (
        await from_table(database),
        await from_csv(database, await csv_of(old, tmp_path / "searches.csv"), source_name="the same as a csv"),
    ):
        assert [str(one.month) for one in imported.months] == ["2025-01"]
        assert imported.not_over == {Month.of(now): 1}
    assert len(await kept(here)) == 2


async def test_the_same_under_another_name_is_refused_unless_it_is_said_to_be_another(
    old: asyncpg.Connection, database: str, here: asyncpg.Connection, tmp_path: Path
) -> None:
    await fill(old, SOUND)
    imported = await from_table(database)
    path = await csv_of(old, tmp_path / "searches.csv")
    with pytest.raises(ArchiveError, match=r'2025-01 was imported from "PostgreSQL at .*, table old.searches" already'):
        await from_csv(database, path)
    assert months(await from_csv(database, path, source_name=imported.source)) == [
        ("2025-01", 1, 2, True),
        ("2025-03", 1, 4, True),
    ]
    other = await from_csv(database, path, source_name="another node")
    assert months(other) == [("2025-01", 2, 2, False), ("2025-03", 2, 4, False)]
    assert sorted(await kept(here)) == sorted(KEPT * 2)


async def test_what_was_imported_before_the_database_was_lost_is_not_imported_again(
    old: asyncpg.Connection, database: str, here: asyncpg.Connection, tmp_path: Path
) -> None:
    await fill(old, SOUND)
    await from_table(database)
    work = frozen.work(database, tmp_path)
    for month in (Month(2025, 1), Month(2025, 3)):
        (part,) = await frozen.archive(work, month)
        await deleting.delete(work, part)
    await here.execute("DELETE FROM imports; DELETE FROM archives")
    await adopting.adopt(work)
    with pytest.raises(ArchiveError, match='2025-01 holds searches under the key id "sha256" already'):
        await from_table(database)
    assert await kept(here) == []
    other = await from_table(database, source_name="another node")
    assert months(other) == [("2025-01", 2, 2, False), ("2025-03", 2, 4, False)]


async def test_a_file_is_known_again_wherever_it_lies(
    old: asyncpg.Connection, database: str, here: asyncpg.Connection, tmp_path: Path
) -> None:
    await fill(old, SOUND)
    path = await csv_of(old, tmp_path / "searches.csv")
    await from_csv(database, path)
    (tmp_path / "elsewhere").mkdir()
    moved = path.rename(tmp_path / "elsewhere/searches.csv")
    assert [one.already for one in (await from_csv(database, moved)).months] == [True, True]


async def test_keys_are_kept_apart(old: asyncpg.Connection, database: str, here: asyncpg.Connection) -> None:
    await here.execute("SELECT register_first_key('abcd2345', 'f', 'aes-siv')")
    await fill(old, SOUND[:1])
    with pytest.raises(ArchiveError, match='"abcd2345" is a key of this software'):
        await from_table(database, key_id="abcd2345")
    with pytest.raises(ArchiveError, match="cannot be a key id"):
        await from_table(database, key_id="a.b")
    await from_table(database, key_id="old")
    assert (await kept(here))[0][5] == pseudonym("ann").replace("sha256", "old")
    with pytest.raises(ArchiveError, match="go on with --key-id old"):
        await from_table(database)


async def test_a_month_that_another_run_works_on_is_busy(
    old: asyncpg.Connection, database: str, here: asyncpg.Connection
) -> None:
    await fill(old, SOUND)
    async with locks.month_locked(here, Month(2025, 3)):
        with pytest.raises(ArchiveBusyError, match="another run is working on 2025-03"):
            await from_table(database)
    assert await kept(here) == KEPT[:2]


async def test_a_month_that_has_parts_gets_another(
    old: asyncpg.Connection, database: str, here: asyncpg.Connection
) -> None:
    await here.execute("INSERT INTO archives (month, part, state) VALUES ('2025-01-01', 1, 'archived')")
    await fill(old, SOUND)
    assert months(await from_table(database)) == [("2025-01", 2, 2, False), ("2025-03", 1, 4, False)]


async def test_an_archivist_may_import_and_the_source_is_only_read(
    old: asyncpg.Connection, database: str, here: asyncpg.Connection, login: str
) -> None:
    await here.execute(f"GRANT soulseek_research_archivist TO {login}")
    await fill(old, SOUND)
    await old.execute(f"GRANT USAGE ON SCHEMA old TO {login}")
    await old.execute(f"GRANT SELECT ON searches TO {login}")
    await from_table(databases.as_user(database, login), databases.as_user(database, login))
    assert await kept(here) == KEPT
    async with databases.connected(databases.as_user(database, login)) as archivist:
        await archivist.execute("SET ROLE soulseek_research_archivist")
        assert await archivist.fetchval("SELECT count(*) FROM sealed_2025_01_part1") == 2
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await archivist.execute("INSERT INTO sealed_2025_01_part1 SELECT * FROM sealed_2025_01_part1")
    await old.execute(f"REVOKE SELECT ON searches FROM {login}")
    with pytest.raises(ArchiveError, match="may not read the predecessor's table"):
        await from_table(database, databases.as_user(database, login))
    await here.execute("DROP OWNED BY " + login)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("ALTER TABLE searches RENAME TO other", 'has no table "old.searches": name the predecessor\'s with --table'),
        ("ALTER TABLE searches DROP COLUMN username", "it lacks username"),
        ("ALTER TABLE searches ALTER timestamp TYPE timestamp", "nobody can tell in which time zone"),
    ],
)
async def test_a_table_that_is_not_the_predecessors_is_refused(
    old: asyncpg.Connection, database: str, change: str, words: str
) -> None:
    await old.execute(change)
    with pytest.raises(ArchiveError, match=words):
        await from_table(database)


async def test_our_own_database_is_no_source_and_a_renamed_table_in_it_is(
    database: str, here: asyncpg.Connection
) -> None:
    with pytest.raises(ArchiveError, match="is partitioned, as this software makes it"):
        await from_table(database, table="searches")
    await here.execute(TABLE.replace("TABLE searches", 'TABLE "Old searches"'))
    await here.execute("""INSERT INTO "Old searches" SELECT 1, 'eu', '2025-01-01Z', repeat('0', 64), 'q'""")
    assert months(await from_table(database, table='public."Old searches"')) == [("2025-01", 1, 1, False)]
    with pytest.raises(ArchiveError):
        await from_table(database, table="a..b")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "has to name the columns timestamp, client_id, username, query"),
        (b"1,eu,2025-01-01,x,y\n", "has to name the columns"),
        (gzip.compress(b"id,client_id,timestamp,username,query\n" * 9)[:-9], "is damaged or breaks off"),
        (b"\x28\xb5\x2f\xfd", "is damaged or breaks off"),
        (b"\x1f\x8bno", "is damaged or breaks off"),
    ],
)
async def test_a_csv_that_is_none_or_breaks_off_is_refused(
    database: str, here: asyncpg.Connection, tmp_path: Path, content: bytes, words: str
) -> None:
    (tmp_path / "searches.csv").write_bytes(content)
    with pytest.raises(ArchiveError, match=words):
        await from_csv(database, tmp_path / "searches.csv")
    assert await kept(here) == []
    assert not (tmp_path / "data/import").exists()


async def test_lines_that_are_no_rows_are_counted_and_the_rest_is_taken(
    database: str, here: asyncpg.Connection, tmp_path: Path
) -> None:
    path = tmp_path / "searches.csv"
    good = f"2025-01-01 01:00:00.5+01,{hashed('ann')},"
    path.write_bytes(
        b"\xef\xbb\xbftimestamp,username,query,client_id,more\r\n"
        + f"{good}sound,eu,\n{good}too few,eu\n\n{good}too many,eu,,\n".encode()
        + f"2025-01-01 00:00:00,{hashed('ann')},no zone,eu,\nnow,{hashed('ann')},no time,eu,\n".encode()
        + f"infinity,{hashed('ann')},no time,eu,\n{good}".encode() + b"nul \0 and latin \xe9,eu,\n"
    )  # fmt: skip
    imported = await from_csv(database, path)
    assert imported.left_behind == {"not a row of this CSV": 3, "time without a time zone": 1, "no time": 2}
    assert [(row[0], row[3], row[6]) for row in await kept(here)] == [
        (at(2025, 1, 1, 0, 0, 0, 500_000), 0, "sound"),
        (at(2025, 1, 1, 0, 0, 0, 500_000), 1, "nul � and latin �"),
    ]


async def test_a_csv_larger_than_what_is_held_is_divided_by_month(
    database: str, here: asyncpg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predecessor_csv, "_HELD_ROWS", 100)
    monkeypatch.setattr(predecessor_csv, "CHUNK_ROWS", 7)
    path = tmp_path / "searches.csv"
    lines = [f"2025-{number % 12 + 1:02}-01T00:00:00Z,{hashed('ann')},{number},eu\n" for number in range(1234)]
    path.write_text("timestamp,username,query,client_id\n" + "".join(lines))
    modes: set[int] = set()
    monkeypatch.setattr(fingerprint, "REPORT_SECONDS", 0)
    monkeypatch.setattr(predecessor_csv, "_TOLD_ROWS", 10)

    def look(_: Progress) -> None:
        modes.update(stat.S_IMODE(one.stat().st_mode) for one in (tmp_path / "data/import").iterdir())

    imported = await from_csv(database, path, report=look)
    assert sum(one.rows for one in imported.months) == 1234
    assert sorted(int(row[6]) for row in await kept(here)) == list(range(1234))
    assert modes == {0o600}


async def test_what_a_killed_import_left_is_removed_and_two_at_once_are_not_mixed(tmp_path: Path) -> None:
    path = tmp_path / "searches.csv"
    path.write_text("x")
    left = tmp_path / "data/import/2025-01.arrow"
    left.parent.mkdir(parents=True)
    left.write_text("half")
    with predecessor_csv.opened(path, tmp_path / "data"):
        assert not left.exists()
        with pytest.raises(ArchiveBusyError), predecessor_csv.opened(path, tmp_path / "data"):
            pass
    assert not left.parent.exists()


async def test_an_import_that_is_cancelled_stops_reading(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predecessor_csv, "_TOLD_ROWS", 10)
    monkeypatch.setattr(fingerprint, "REPORT_SECONDS", 0)
    path = tmp_path / "searches.csv"
    path.write_text("timestamp,username,query,client_id\n" + f"2025-01-01T00:00:00Z,{hashed('a')},q,eu\n" * 200_000)
    reading = asyncio.Event()
    task = asyncio.create_task(from_csv(database, path, report=lambda _: reading.set()))
    await reading.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not (tmp_path / "data/import").exists()


@pytest.fixture
def files(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the two URLs in it."""
    (tmp_path / "old.url").write_text(database)
    (tmp_path / "new.url").write_text(database)
    monkeypatch.chdir(tmp_path)
    with contextlib.chdir(tmp_path):
        yield tmp_path


async def run(*arguments: str) -> Result:
    command = [*arguments, "--database-url-file", "new.url", "--data-dir", "data"]
    return await asyncio.to_thread(CliRunner().invoke, import_, command)


async def test_the_command_imports_shows_and_repeats(old: asyncpg.Connection, files: Path) -> None:
    await fill(old, SOUND + UNSOUND)
    done = await run("--from-url-file", "old.url", "--table", "old.searches")
    assert done.exit_code == 0, done.output
    for words in ("2025-01", "2025-03", "username is no SHA-256 in hex", "now"):
        assert words in done.output
    again = await run("--from-url-file", "old.url", "--table", "old.searches", "--json")
    (document,) = json.loads(again.stdout)
    assert document["months"] == [
        {"month": "2025-01", "part": 1, "rows": 2, "already": True},
        {"month": "2025-03", "part": 1, "rows": 4, "already": True},
    ]
    await csv_of(old, files / "searches.csv")
    refused = await run("--from-csv", "searches.csv")
    assert isinstance(refused.exception, ArchiveError)
    for wrong in ([], ["--from-csv", "searches.csv", "--from-url-file", "old.url"]):
        assert "say where from" in (await run(*wrong)).output


async def test_a_password_is_never_repeated(files: Path) -> None:
    (files / "old.url").write_text("postgresql://u:swordfish@127.0.0.1:1/d")
    done = await run("--from-url-file", "old.url", "--table", "old.searches")
    assert "PostgreSQL at 127.0.0.1:1" in str(done.exception)
    assert "swordfish" not in str(done.exception) + done.output


@pytest.mark.prove
@pytest.mark.timeout(600)
@pytest.mark.parametrize("by", ["table", "csv"])
async def test_kill_9_at_any_moment_loses_and_doubles_nothing(
    old: asyncpg.Connection, here: asyncpg.Connection, files: Path, by: str
) -> None:
    rows = [("eu", at(2024, 1 + number % 12, 1 + number % 28), hashed("ann"), str(number)) for number in range(120_000)]
    await fill(old, rows)
    where = ["--from-url-file", "old.url", "--table", "old.searches"]
    if by == "csv":
        await csv_of(old, files / "searches.csv")
        where = ["--from-csv", "searches.csv"]
    command = [
        sys.executable,
        "-m",
        "flows.cli",
        "import",
        *where,
        "--database-url-file",
        "new.url",
        "--data-dir",
        "data",
    ]
    ended, kills, seconds = False, 0, 3.0
    while not ended:
        program = Program(command, files / "log", env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])})
        await asyncio.sleep(random.uniform(0.5, seconds))
        # Whom the server still takes for alive keeps the month busy: then it is run again.
        ended = program._process.poll() == 0
        kills += not program.ended
        program.kill()
        seconds += 1  # so that it comes to an end on a slow machine too
        found = await here.fetch("SELECT date_trunc('month', timestamp) AS m, count(*) FROM searches_all GROUP BY 1")
        assert {row["count"] for row in found} <= {10_000}
    assert kills > 2
    assert sorted(int(row[6]) for row in await kept(here)) == list(range(120_000))
    assert await here.fetchval("SELECT count(*) FROM imports") == 12
    assert not (files / "data/import").exists()
