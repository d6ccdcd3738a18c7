import asyncio
import dataclasses
import json
import logging
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from soulseek_research.storage.archive import (
    catalogue,
    copy_binary,
    deleting,
    errors,
    locks,
    parquet_file,
    restoring,
    sealing,
)
from soulseek_research.storage.archive.catalogue import Part, State
from soulseek_research.storage.archive.errors import ArchiveBusyError, ArchiveError
from soulseek_research.storage.archive.month import Month
from soulseek_research.storage.archive.progress import Progress
from soulseek_research.storage.archive.settings import Format
from soulseek_research.storage.archive.work import Work
from soulseek_research.storage.database import Role
from soulseek_research.storage.errors import StorageError
from tests import databases, frozen
from tests.frozen import LATER_MONTH, MONTH
from tests.proxy import Proxy
from tests.s3_server import S3Server

# What PostgreSQL takes: everything but NUL and the halves of surrogate pairs.
HOSTILE = (
    *(
        "",
        " ",
        "\\",
        "\\N",
        "\\.",
        "\n\\.\n",
        '"',
        '""',
        "''",
        ",",
        ",,,",
        "\t",
        "\r\n",
        "\r",
        "\n",
        "NULL",
        "\\t\\x41\\101",
        "a\\",
    ),
    *("\x01\x1f\x7f\x85\u2028\u2029", "\ufeff", "\ufffd", "مرحبا \u202e", "🎵 e\u0301", "x" * 4096, "🎵" * 4096),
)
texts = st.sampled_from(HOSTILE) | st.text(
    st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=40
)
rows = st.tuples(
    st.sampled_from([MONTH.start, MONTH.end - timedelta(milliseconds=1)])
    | st.integers(0, 27 * 86_400_000).map(lambda later: MONTH.start + timedelta(milliseconds=later)),
    st.none() | st.sampled_from([0, 2**32 - 1]) | st.integers(0, 2**32 - 1),
    st.integers(-(2**15), 2**15 - 1),
    st.integers(-(2**15), 2**15 - 1),
    texts,
    texts,
    texts,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "archive"


@pytest.fixture
def work(database: str, folder: Path) -> Work:
    return frozen.work(database, folder)


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with S3Server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def bucket(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of a bucket."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    return s3.bucket("months")


async def _archived(work: Work, month: Month = MONTH) -> None:
    """Archive a month and drop it."""
    for part in await frozen.archive(work, month):
        await deleting.delete(work, part)


async def _parts(work: Work, month: Month = MONTH) -> list[Part]:
    async with work.database.session() as connection:
        return await catalogue.parts(connection, month)


async def _tables(work: Work) -> list[str]:
    async with work.database.session() as connection:
        return list(await frozen.tables(connection))


@pytest.mark.parametrize("form", Format)
async def test_whatever_was_searched_comes_back_as_it_was(
    database: str, folder: Path, form: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copy_binary, "PIECE_BYTES", 1000)  # a few rows, or less than one
    work = frozen.work(database, folder, form=form)
    ids = iter(range(-2, 2**62, 2**40))

    # Each example becomes the next part of the month.
    @settings(max_examples=8, suppress_health_check=list(HealthCheck), deadline=None, database=None)
    @given(st.lists(rows, max_size=60))
    def round_trip(found: list[tuple[Any, ...]]) -> None:
        examples.append([(next(ids), *row) for row in found])

    examples: list[list[frozen.Row]] = []
    await asyncio.to_thread(round_trip)
    everything = []
    for example in examples:
        everything += example
        await frozen.store(database, example)
        await _archived(work)
    assert await frozen.held(database) == []
    await restoring.restore(work, MONTH)
    assert await frozen.held(database) == everything


async def test_all_parts_come_back_and_none_twice(database: str, work: Work) -> None:
    everything = frozen.searches(3000)
    await frozen.store(database, everything[:2000])
    await _archived(work)
    await frozen.store(database, everything[2000:2500])
    await frozen.archive(work)
    await frozen.store(database, everything[2500:])  # not even sealed yet
    assert await frozen.held(database) == everything[2000:]
    first, second = await restoring.restore(work, MONTH)
    assert await frozen.held(database) == everything
    assert (first.state, first.restored_at is None, first.table_name) == (
        State.ARCHIVED, False, f"restored_{MONTH.year}_{MONTH.number:02}_part1",
    )  # fmt: skip
    assert second.restored_at is None


async def test_a_part_that_is_damaged_does_not_hold_up_the_others(database: str, folder: Path, work: Work) -> None:
    everything = frozen.searches(300)
    for some in (everything[:100], everything[100:200], everything[200:]):
        await frozen.store(database, some)
        await _archived(work)
    parts = await _parts(work)
    _truncate(folder / str(parts[1].file_path))
    async with databases.connected(database) as owner:
        await owner.execute("UPDATE archives SET checksum = 'v2:0123456789abcdef' WHERE part = 1")
    with pytest.raises(ArchiveError) as refusal:
        await restoring.restore(work, MONTH)
    assert f"{MONTH} has a checksum that is not known here (v2:0123456789abcdef)" in str(refusal.value)
    assert f"{MONTH} part 2 is not restored" in str(refusal.value)
    assert await frozen.held(database) == everything[200:]


async def test_what_is_there_is_not_doubled(database: str, work: Work) -> None:
    everything = frozen.searches(100)
    await frozen.store(database, everything)
    await frozen.archive(work)
    with pytest.raises(ArchiveError, match="is in the database already: its searches are in sealed_"):
        await restoring.restore(work, MONTH)
    await _archived(work)
    await restoring.restore(work, MONTH)
    with pytest.raises(ArchiveError, match="is in the database already: its searches are in restored_"):
        await restoring.restore(work, MONTH)
    assert await frozen.held(database) == everything


async def test_a_month_of_no_searches_comes_back_empty(database: str, work: Work) -> None:
    await frozen.store(database, [])
    await _archived(work)
    assert await _tables(work) == []
    (part,) = await restoring.restore(work, MONTH)
    assert await _tables(work) == [part.table_name]


async def test_a_month_that_was_never_archived(work: Work) -> None:
    with pytest.raises(ArchiveError, match=f"no archive of {MONTH} is known"):
        await restoring.restore(work, MONTH)


async def test_a_month_whose_files_retention_has_deleted(database: str, work: Work) -> None:
    await frozen.store(database, frozen.searches(10))
    await _archived(work)
    async with databases.connected(database) as owner:
        await owner.execute("UPDATE archives SET state = 'expired'")
    with pytest.raises(ArchiveError, match="retention has deleted its files"):
        await restoring.restore(work, MONTH)


async def test_a_restored_month_is_never_archived_again(database: str, folder: Path, work: Work) -> None:
    await frozen.store(database, frozen.searches(100))
    await _archived(work)
    before = {path: path.stat().st_mtime_ns for path in _files(folder)}
    await restoring.restore(work, MONTH)
    async with work.database.session() as connection:
        assert MONTH not in await sealing.due(connection)
    restored = await _parts(work)
    assert await frozen.archive(work) == []
    assert await _parts(work) == restored
    assert {path: path.stat().st_mtime_ns for path in _files(folder)} == before


def _files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("searches_*"))


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def _lose_manifest(file: Path) -> None:
    _manifest(file).unlink()


def _change_manifest(**fields: Any) -> Callable[[Path], None]:
    def change(file: Path) -> None:
        document = json.loads(_manifest(file).read_text())
        _manifest(file).write_text(json.dumps({**document, **fields}))

    return change


def _manifest(file: Path) -> Path:
    return file.with_name(f"{file.name}.manifest.json")


DAMAGES: dict[str, Callable[[Path], None]] = {
    "changed": _flip,
    "truncated": _truncate,
    "gone": Path.unlink,
    "without manifest": _lose_manifest,
    "of a later version": _change_manifest(manifest_version=99),
    "of other columns": _change_manifest(schema=[]),
    "of other rows": _change_manifest(rows=7),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
async def test_a_file_that_is_not_sound_is_refused_and_another_copy_is_taken(
    database: str, tmp_path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    work = frozen.work(database, one, other)
    everything = frozen.searches(500)
    await frozen.store(database, everything)
    await _archived(work)
    (part,) = await _parts(work)

    damage(one / str(part.file_path))
    await restoring.restore(work, MONTH)
    assert await frozen.held(database) == everything
    assert [record.levelno for record in caplog.records if str(one) in record.getMessage()] == [logging.WARNING]

    damage(other / str(part.file_path))
    async with databases.connected(database) as owner:
        await owner.execute("SELECT drop_frozen($1, 1)", MONTH.first_day)
    with pytest.raises(ArchiveError, match=f"is not restored.* {one}/.* {other}/") as refusal:
        await restoring.restore(work, MONTH)
    assert not errors.is_passing(refusal.value)
    assert await _tables(work) == []


@pytest.mark.parametrize("form", Format)
async def test_a_month_comes_back_from_an_object_store(
    database: str, tmp_path: Path, bucket: str, form: Format
) -> None:
    here, away = tmp_path / "archive", f"{bucket}/{form}"
    work = frozen.work(database, here, away, form=form)
    everything = frozen.searches(5000)
    await frozen.store(database, everything)
    await _archived(work)
    (part,) = await _parts(work)
    assert list(part.places) == [str(here), away]
    _flip(here / str(part.file_path))
    await restoring.restore(work, MONTH)
    assert await frozen.held(database) == everything


@pytest.mark.parametrize("form", [Format.PARQUET, Format.CSV_ZST])
@pytest.mark.parametrize("change", [{"query_bytes": 1}, {"rows": 1}, {}], ids=["tally", "rows", "checksum"])
async def test_rows_that_are_not_those_that_were_archived_are_refused(
    database: str, folder: Path, form: Format, change: dict[str, int]
) -> None:
    """As if the file had been replaced between its SHA-256 and its loading."""
    work = frozen.work(database, folder, form=form)
    await frozen.store(database, frozen.searches(500))
    await _archived(work)
    (part,) = await _parts(work)
    assert part.tally is not None
    tally = dataclasses.replace(part.tally, **{name: getattr(part.tally, name) + by for name, by in change.items()})
    other = dataclasses.replace(part, tally=tally, checksum=part.checksum if change else "v1:0000000000000000")
    async with locks.month_session(work.database, MONTH) as connection:
        with pytest.raises(ArchiveError, match="does not hold what was archived"):
            await restoring.Loading(work, connection, other, work.destinations[0]).run()
    assert await _tables(work) == []


async def test_a_file_of_another_month_is_refused(database: str, work: Work) -> None:
    await frozen.store(database, frozen.searches(10))
    await frozen.store(database, frozen.searches(10, LATER_MONTH), LATER_MONTH)
    await _archived(work)
    await _archived(work, LATER_MONTH)
    (part,), (later,) = await _parts(work), await _parts(work, LATER_MONTH)
    async with locks.month_session(work.database, MONTH) as connection:
        with pytest.raises(ArchiveError, match="holds what PostgreSQL does not take") as refused:
            await restoring.Loading(
                work, connection, dataclasses.replace(part, file_path=later.file_path), work.destinations[0]
            ).run()
    assert "query 0" not in str(refused.value)
    assert await _tables(work) == []


async def test_a_table_that_is_in_the_way_is_named(database: str, work: Work) -> None:
    await frozen.store(database, frozen.searches(10))
    await _archived(work)
    name = f"restored_{MONTH.year}_{MONTH.number:02}_part1"
    async with databases.connected(database) as owner:
        await owner.execute(f"CREATE TABLE {name} (mine text)")
    with pytest.raises(StorageError, match=f'"{name}" already exists'):
        await restoring.restore(work, MONTH)


async def test_a_connection_that_is_lost_leaves_nothing_and_the_next_attempt_succeeds(
    database: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_file, "READ_ROWS", 500)
    everything = frozen.searches(5000)
    await frozen.store(database, everything)
    async with Proxy(database) as proxy:

        def cut(progress: Progress) -> None:
            if progress.step == "restore" and progress.rows < len(everything) and not was_cut:
                was_cut.append(progress.rows)
                proxy.cut()

        was_cut: list[int] = []
        work = frozen.work(proxy.dsn, folder, report=cut)
        await _archived(work)
        with pytest.raises(StorageError) as lost:
            await restoring.restore(work, MONTH)
        assert was_cut
        assert errors.is_passing(lost.value)
        assert await _tables(work) == []
        await restoring.restore(work, MONTH)
    assert await frozen.held(database) == everything


async def test_a_network_that_falls_silent_and_is_then_cut_does_not_hang(
    database: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_file, "READ_ROWS", 500)
    await frozen.store(database, frozen.searches(5000))
    async with Proxy(database) as proxy:

        def stall(progress: Progress) -> None:
            if progress.step == "restore" and progress.rows:
                proxy.stall()
                stalled.set()

        stalled = asyncio.Event()

        work = frozen.work(proxy.dsn, folder, report=stall)
        await _archived(work)
        restore = asyncio.create_task(restoring.restore(work, MONTH))
        await stalled.wait()
        await asyncio.sleep(0.5)
        proxy.cut()
        with pytest.raises(StorageError):
            await restore


async def test_a_restore_that_is_cancelled_leaves_nothing_and_lets_go_of_the_month(
    database: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_file, "READ_ROWS", 500)
    everything = frozen.searches(5000)
    await frozen.store(database, everything)

    def cancel(progress: Progress) -> None:
        if progress.step == "restore" and progress.rows:
            restore.cancel()

    work = frozen.work(database, folder, report=cancel)
    await _archived(work)
    restore = asyncio.create_task(restoring.restore(work, MONTH))
    with pytest.raises(asyncio.CancelledError):
        await restore
    assert await _tables(work) == []
    await restoring.restore(frozen.work(database, folder), MONTH)
    assert await frozen.held(database) == everything


async def test_of_two_at_once_one_restores(database: str, work: Work) -> None:
    everything = frozen.searches(5000)
    await frozen.store(database, everything)
    await _archived(work)
    results = await asyncio.gather(*(restoring.restore(work, MONTH) for _ in range(2)), return_exceptions=True)
    assert sorted(type(result) for result in results if isinstance(result, Exception)) == [ArchiveBusyError]
    assert await frozen.held(database) == everything


async def test_writers_and_readers_wait_for_nothing_while_a_month_comes_back(database: str, work: Work) -> None:
    await frozen.store(database, frozen.searches(20_000))
    await _archived(work)
    await frozen.store(database, [], LATER_MONTH)
    restore = asyncio.create_task(restoring.restore(work, MONTH))
    async with databases.connected(database, statement_timeout="1s") as busy:
        for number in range(1000):
            await busy.copy_records_to_table(
                "searches", records=[frozen.searches(1, LATER_MONTH, 10**6 + number)[0][1:]], columns=frozen.COLUMNS[1:]
            )
            assert await busy.fetchval("SELECT count(*) FROM searches_all WHERE timestamp < $1", MONTH.end) in (
                0,
                20_000,
            )
            if restore.done():
                break
    await restore


async def test_the_archivists_rights_are_enough(database: str, folder: Path, login: str) -> None:
    async with databases.connected(database) as owner:
        await owner.execute(f"GRANT {Role.ARCHIVIST} TO {login}")
    everything = frozen.searches(100)
    await frozen.store(database, everything)
    work = frozen.work(databases.as_user(database, login), folder)
    await _archived(work)
    await restoring.restore(work, MONTH)
    async with databases.connected(databases.as_user(database, login), role=Role.ARCHIVIST) as archivist:
        assert await archivist.fetchval("SELECT count(*) FROM searches_all") == 100
    (part,) = await _parts(work)
    await deleting.drop_restored(work, part)
    assert await frozen.held(database) == []
