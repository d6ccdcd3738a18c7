import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest

from soulseek_research.storage.archive import catalogue, deleting, errors, locks, restoring, sealing
from soulseek_research.storage.archive.catalogue import Part, State
from soulseek_research.storage.archive.errors import ArchiveBusyError, ArchiveError
from soulseek_research.storage.archive.progress import Progress
from soulseek_research.storage.archive.work import Work
from soulseek_research.storage.errors import StorageError
from tests import databases, frozen
from tests.frozen import LATER_MONTH, MONTH
from tests.proxy import AtCommit, Proxy

ROWS = frozen.searches(500)


@pytest.fixture
def places(tmp_path: Path) -> list[Path]:
    return [tmp_path / "one", tmp_path / "other"]


@pytest.fixture
def work(database: str, places: list[Path]) -> Work:
    return frozen.work(database, *places)


@pytest.fixture
async def part(database: str, work: Work) -> Part:
    """A part that is archived and still has its sealed table."""
    return await _archived(database, work)


async def _archived(database: str, work: Work) -> Part:
    await frozen.store(database, ROWS)
    (part,) = await frozen.archive(work)
    assert part.state is State.ARCHIVED
    return part


async def test_the_table_goes_and_the_files_stay(database: str, work: Work, part: Part, places: list[Path]) -> None:
    reports: list[Progress] = []
    files = {path: path.read_bytes() for place in places for path in place.rglob("searches_*")}
    gone = await deleting.delete(frozen.work(database, *places, report=reports.append), part)
    assert (gone.state, gone.table_name, gone.restored_at) == (State.ARCHIVED, None, None)
    assert gone.deleted_at is not None
    assert await frozen.held(database) == []
    assert {path: path.read_bytes() for path in files} == files
    assert len(files) == 4
    assert reports[-1] == Progress("delete", len(ROWS), len(ROWS), 2 * (part.file_size or 0))
    assert await deleting.delete(work, part) == gone


@pytest.mark.parametrize("state", [state for state in State if state is not State.ARCHIVED])
async def test_what_is_not_archived_stays(database: str, work: Work, part: Part, state: State) -> None:
    async with databases.connected(database) as owner:
        await owner.execute("UPDATE archives SET state = $1", state)
    with pytest.raises(ArchiveError, match=f"is not archived but {state}"):
        await deleting.delete(work, part)
    assert await frozen.held(database) == ROWS


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def _manifest(file: Path) -> Path:
    return file.with_name(f"{file.name}.manifest.json")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a byte differs": _flip,
    "truncated": _truncate,
    "no file": Path.unlink,
    "no manifest": lambda file: _manifest(file).unlink(),
    "half a manifest": lambda file: _manifest(file).write_bytes(_manifest(file).read_bytes()[:500]),
    "no folder": lambda file: shutil.rmtree(file.parents[1]),
}


@pytest.mark.parametrize(("place", "damage"), list(zip((0, 1) * 3, DAMAGES.values(), strict=True)), ids=DAMAGES)
async def test_nothing_is_dropped_unless_every_copy_is_right(
    database: str, work: Work, part: Part, places: list[Path], place: int, damage: Callable[[Path], object]
) -> None:
    damage(places[place] / str(part.file_path))
    with pytest.raises(ArchiveError, match=str(places[place])) as refusal:
        await deleting.delete(work, part)
    assert not errors.is_passing(refusal.value)
    assert await frozen.held(database) == ROWS


async def test_a_place_that_was_set_up_since_has_to_hold_it_too(
    database: str, part: Part, places: list[Path], tmp_path: Path
) -> None:
    third = tmp_path / "third"
    work = frozen.work(database, *places, third)
    with pytest.raises(ArchiveError, match=str(third)):
        await deleting.delete(work, part)
    assert await frozen.held(database) == ROWS
    shutil.copytree(places[0], third)
    await deleting.delete(work, part)
    assert await frozen.held(database) == []


async def test_a_place_that_is_no_longer_set_up_still_counts(database: str, part: Part, places: list[Path]) -> None:
    _flip(places[1] / str(part.file_path))
    with pytest.raises(ArchiveError, match=str(places[1])):
        await deleting.delete(frozen.work(database, places[0]), part)
    assert await frozen.held(database) == ROWS


async def test_a_part_of_which_no_copy_is_known(database: str, places: list[Path], part: Part) -> None:
    async with databases.connected(database) as owner:
        await owner.execute("UPDATE archives SET places = '{}'")
    with pytest.raises(ArchiveError):
        await deleting.delete(frozen.work(database, places[0] / "elsewhere"), part)
    assert await frozen.held(database) == ROWS


async def test_a_table_that_holds_more_than_its_archive_stays(database: str, work: Work, part: Part) -> None:
    async with databases.connected(database) as owner:
        await owner.execute(f"INSERT INTO {part.table_name} SELECT * FROM {part.table_name} LIMIT 1")
    with pytest.raises(ArchiveError, match="holds 501 searches and its archive 500"):
        await deleting.delete(work, part)
    assert len(await frozen.held(database)) == 501


async def test_a_reader_of_the_table_is_waited_for(
    database: str, work: Work, part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealing, "PAUSE_SECONDS", (0.0, 0.1))
    await frozen.store(database, [], LATER_MONTH)
    async with databases.connected(database) as reader, databases.connected(database, statement_timeout="2s") as busy:
        async with reader.transaction():
            await reader.fetch("SELECT FROM searches_all LIMIT 1")
            await reader.execute(f"LOCK TABLE {part.table_name} IN ACCESS SHARE MODE")
            delete = asyncio.create_task(deleting.delete(work, part))
            for number in range(20):  # writers and readers of other months are held up by nothing
                await busy.copy_records_to_table("searches", records=frozen.searches(1, LATER_MONTH, 10**6 + number),
                                                 columns=frozen.COLUMNS)  # fmt: skip
                await busy.fetch("SELECT FROM searches_all WHERE timestamp > $1", LATER_MONTH.start)
                await asyncio.sleep(0.02)
            assert not delete.done()
        await delete
    assert await frozen.held(database) == []


async def test_a_table_that_never_gets_free_stays(
    database: str, work: Work, part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealing, "TRY_SECONDS", 0.5)
    monkeypatch.setattr(sealing, "PAUSE_SECONDS", (0.0, 0.1))
    async with databases.connected(database) as reader, reader.transaction():
        await reader.execute(f"LOCK TABLE {part.table_name} IN ACCESS SHARE MODE")
        with pytest.raises(ArchiveBusyError, match="somebody has held a lock"):
            await deleting.delete(work, part)
    assert await frozen.held(database) == ROWS


async def test_a_month_that_another_run_has(work: Work, part: Part) -> None:
    async with locks.month_session(work.database, MONTH):
        with pytest.raises(ArchiveBusyError, match="another run"):
            await deleting.delete(work, part)


@pytest.mark.parametrize("fault", [AtCommit.RESET_BEFORE, AtCommit.RESET_DURING, AtCommit.RESET_AFTER])
async def test_a_connection_that_is_cut_at_the_commit(
    database: str, work: Work, part: Part, places: list[Path], fault: AtCommit
) -> None:
    async with Proxy(database) as proxy:
        through = frozen.work(proxy.dsn, *places)
        proxy.at_commit = fault
        with pytest.raises((StorageError, asyncpg.PostgresError)) as lost:
            await deleting.delete(through, part)
        assert errors.is_passing(lost.value)
        assert proxy.commits_broken == 1
        gone = await _patiently(lambda: deleting.delete(through, part))
    assert gone.table_name is None
    assert gone.deleted_at is not None
    assert await frozen.held(database) == []


async def _patiently(attempt: Callable[[], asyncio.Future[Part]]) -> Part:
    """The server may not have noticed yet that the connection which holds the month is gone."""
    while True:
        try:
            return await attempt()
        except ArchiveBusyError:
            await asyncio.sleep(0.05)


async def test_a_restored_table_goes_when_it_is_asked_for_and_not_by_retention(
    database: str, work: Work, part: Part
) -> None:
    with pytest.raises(ArchiveError, match="was not restored"):
        await deleting.drop_restored(work, part)
    await deleting.delete(work, part)
    (restored,) = await restoring.restore(work, MONTH)
    with pytest.raises(ArchiveError, match="its table stays until `soulseek-research restore --drop`"):
        await deleting.delete(work, restored)
    assert await frozen.held(database) == ROWS
    gone = await deleting.drop_restored(work, restored)
    assert (gone.table_name, gone.restored_at) == (None, None)
    assert await frozen.held(database) == []
    await restoring.restore(work, MONTH)
    assert await frozen.held(database) == ROWS


async def test_a_restored_table_stays_when_its_file_is_no_longer_sound(
    database: str, work: Work, part: Part, places: list[Path]
) -> None:
    await deleting.delete(work, part)
    (restored,) = await restoring.restore(work, MONTH)
    _flip(places[1] / str(part.file_path))
    with pytest.raises(ArchiveError, match=str(places[1])):
        await deleting.drop_restored(work, restored)
    assert await frozen.held(database) == ROWS


async def test_a_part_that_is_unknown(database: str, work: Work, part: Part) -> None:
    async with databases.connected(database) as owner:
        await owner.execute(f"DROP TABLE {part.table_name}; DELETE FROM archives")
    with pytest.raises(ArchiveError, match="nothing is known of part 1"):
        await deleting.delete(work, part)
    async with work.database.session() as connection:
        assert await catalogue.parts(connection) == []
