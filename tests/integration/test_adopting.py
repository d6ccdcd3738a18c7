import dataclasses
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from soulseek_research.storage.archive import (
    adopting,
    anonymising,
    catalogue,
    deleting,
    layout,
    locks,
    recording,
    restoring,
    sealing,
)
from soulseek_research.storage.archive import work as works
from soulseek_research.storage.archive.catalogue import Part
from soulseek_research.storage.archive.errors import ArchiveBusyError
from soulseek_research.storage.archive.progress import Progress
from soulseek_research.storage.archive.settings import ArchiveSettings, Format
from soulseek_research.storage.location import Location
from tests import databases, frozen
from tests.frozen import LATER_MONTH, MONTH
from tests.s3_server import S3Server

ROWS = frozen.searches(300)
LATE_ROWS = frozen.searches(20, first_id=10_000)
LATER_ROWS = frozen.searches(100, LATER_MONTH, first_id=20_000)
FILE = layout.file_name(MONTH, 1, Format.PARQUET)


@pytest.fixture
def places(tmp_path: Path) -> list[Path]:
    return [tmp_path / "one", tmp_path / "other"]


@pytest.fixture
async def fresh(server_dsn: str, template: str) -> AsyncIterator[str]:
    """The database that takes the place of one that was lost."""
    async with databases.fresh(server_dsn, f"TEMPLATE {template}") as dsn:
        yield dsn


async def _archived(database: str, *places: Path) -> list[Part]:
    """Two months, the first in two parts, in files only."""
    one = frozen.work(database, *places)
    for rows, month in ((ROWS, MONTH), (LATE_ROWS, MONTH), (LATER_ROWS, LATER_MONTH)):
        await frozen.store(database, rows, month)
        for part in await frozen.archive(one, month):
            await deleting.delete(one, part)
    return await _catalogue(database)


async def _catalogue(database: str) -> list[Part]:
    async with databases.connected(database) as connection:
        return await catalogue.parts(connection)


def _of_a_file(part: Part) -> Part:
    """What of a part lives on in its file."""
    return dataclasses.replace(part, seconds=0.0, deleted_at=None, restored_at=None, table_name=None)


async def test_a_lost_catalogue_is_rebuilt_and_its_months_come_back(
    database: str, fresh: str, places: list[Path]
) -> None:
    before = await _archived(database, *places)
    assert [part.name for part in before] == [f"{MONTH}", f"{MONTH} part 2", f"{LATER_MONTH}"]
    reports: list[Progress] = []
    anew = frozen.work(fresh, *places, report=reports.append)
    adoption = await adopting.adopt(anew)
    assert adoption.refused == adoption.known == []
    assert adoption.adopted == await _catalogue(fresh)
    assert [_of_a_file(part) for part in adoption.adopted] == [_of_a_file(part) for part in before]
    rows = 2 * (len(ROWS) + len(LATE_ROWS) + len(LATER_ROWS))
    assert reports[-1] == Progress("adopt", rows, rows, 2 * sum(part.file_size or 0 for part in before))
    assert [report.rows for report in reports] == sorted(report.rows for report in reports)

    await restoring.restore(anew, MONTH)
    assert await frozen.held(fresh) == ROWS + LATE_ROWS


async def test_what_was_adopted_is_archived_as_ever(database: str, fresh: str, places: list[Path]) -> None:
    await _archived(database, *places)
    anew = frozen.work(fresh, *places)
    await adopting.adopt(anew)
    await frozen.store(fresh, LATE_ROWS)
    (part,) = await frozen.archive(anew)
    assert part.name == f"{MONTH} part 3"
    assert not [problem for _, _, problem in await adopting.check_all(anew) if problem]


async def test_adopting_twice_changes_nothing(database: str, fresh: str, places: list[Path]) -> None:
    before = await _archived(database, *places)
    here = frozen.work(database, *places)
    assert (await adopting.adopt(here)).known == before
    assert await _catalogue(database) == before
    anew = frozen.work(fresh, *places)
    adopted = (await adopting.adopt(anew)).adopted
    again = await adopting.adopt(anew)
    assert (again.adopted, again.known, again.refused) == ([], adopted, [])
    assert await _catalogue(fresh) == adopted


async def test_only_archives_are_adopted(fresh: str, database: str, places: list[Path]) -> None:
    await _archived(database, places[0])
    year = places[0] / str(MONTH.year)
    (places[0] / "README.txt").write_text("mine")
    (year / "notes.manifest.json").write_text("{}")
    (year / f".{Path(FILE).name}.0123456789abcdef.unfinished").write_bytes(b"half")
    unfinished = year / "searches_without.parquet"
    unfinished.write_bytes(b"")
    (places[0] / layout.manifest_name(FILE)).unlink()
    adoption = await adopting.adopt(frozen.work(fresh, places[0]))
    assert adoption.refused == []
    assert [part.name for part in adoption.adopted] == [f"{MONTH} part 2", f"{LATER_MONTH}"]


async def test_where_nothing_lies_nothing_is_adopted(fresh: str, places: list[Path]) -> None:
    assert await adopting.adopt(frozen.work(fresh, *places)) == adopting.Adoption()
    assert not places[0].exists()


def _swap(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


_HARMS: list[tuple[str, Callable[[Path], object], str]] = [
    ("", Path.unlink, "is missing"),
    ("", lambda path: path.write_bytes(path.read_bytes()[:-1]), "was changed or cut off"),
    ("", _swap, "its SHA-256 is not the one on record"),
    (layout.MANIFEST_SUFFIX, lambda path: path.write_bytes(b"{}"), "is no manifest"),
    (layout.MANIFEST_SUFFIX, lambda path: path.write_bytes(b'{"manifest_version": 9}'), "version 9"),
]


async def test_what_is_damaged_is_refused_by_name_and_the_other_copy_taken(
    database: str, fresh: str, places: list[Path]
) -> None:
    await _archived(database, *places)
    both = [str(place) for place in places]
    anew = frozen.work(fresh, *places)
    for end, harm, words in _HARMS:
        async with databases.connected(fresh) as connection:
            await connection.execute("DELETE FROM archives")
        harm(places[0] / f"{FILE}{end}")
        adoption = await adopting.adopt(anew)
        (refusal,) = adoption.refused
        assert refusal.where == f"{places[0]}/{FILE}"
        assert words in refusal.reason
        assert [list(part.places) for part in adoption.adopted] == [both[1:], both, both]
        shutil.copytree(places[1], places[0], dirs_exist_ok=True)
        again = await adopting.adopt(anew)
        assert (again.adopted, again.refused) == ([], [])
        assert [set(part.places) for part in again.known] == [set(both)] * 3


async def test_what_no_place_holds_whole_is_not_adopted(database: str, fresh: str, places: list[Path]) -> None:
    await _archived(database, *places)
    for place in places:
        _swap(place / FILE)
    adoption = await adopting.adopt(frozen.work(fresh, *places))
    assert [refusal.where for refusal in adoption.refused] == [f"{place}/{FILE}" for place in places]
    assert [part.name for part in adoption.adopted] == [f"{MONTH} part 2", f"{LATER_MONTH}"]


async def test_a_copy_in_a_new_place_is_read_and_noted(database: str, places: list[Path]) -> None:
    before = await _archived(database, places[0])
    shutil.copytree(places[0], places[1])
    _swap(places[1] / FILE)
    adoption = await adopting.adopt(frozen.work(database, *places))
    assert [refusal.where for refusal in adoption.refused] == [f"{places[1]}/{FILE}"]
    assert [len(part.places) for part in adoption.known] == [1, 2, 2]
    assert adoption.known[0] == before[0]


async def test_another_file_than_the_catalogue_knows_is_refused(database: str, fresh: str, places: list[Path]) -> None:
    before = await _archived(database, places[0])
    await frozen.store(fresh, ROWS[:50])
    await frozen.archive(frozen.work(fresh, places[1]))
    adoption = await adopting.adopt(frozen.work(database, *places))
    assert adoption.known == before
    (refusal,) = adoption.refused
    assert refusal.where == f"{places[1]}/{FILE}"
    assert "is the same part and differs in size, SHA-256, rows, tally, checksum" in refusal.reason
    (lone,) = (await adopting.adopt(frozen.work(database, places[1]))).refused
    assert "the catalogue has another file for this part, different in size, SHA-256" in lone.reason
    assert await _catalogue(database) == before


async def test_rows_that_are_in_the_database_are_not_adopted_beside_it(
    database: str, fresh: str, places: list[Path]
) -> None:
    await _archived(database, places[0])
    # A backup from the time before the month was archived.
    await frozen.store(fresh, ROWS[:50])
    anew = frozen.work(fresh, places[0])
    adoption = await adopting.adopt(anew)
    assert [part.name for part in adoption.adopted] == [f"{LATER_MONTH}"]
    assert {refusal.where for refusal in adoption.refused} == {
        f"{places[0]}/{FILE}",
        f"{places[0]}/{layout.file_name(MONTH, 2, Format.PARQUET)}",
    }
    assert all("the database holds searches of" in refusal.reason for refusal in adoption.refused)
    # One from a moment later.
    await sealing.seal(anew, MONTH)
    assert any(
        "is still on its way out of the database (sealed)" in one.reason for one in (await adopting.adopt(anew)).refused
    )
    assert await frozen.held(fresh) == ROWS[:50]


async def test_what_retention_has_deleted_is_not_brought_back(database: str, places: list[Path]) -> None:
    await _archived(database, places[0])
    async with databases.connected(database) as connection:
        await connection.execute("UPDATE archives SET state = 'expired' WHERE month = $1", LATER_MONTH.first_day)
    adoption = await adopting.adopt(frozen.work(database, places[0]))
    (refusal,) = adoption.refused
    assert "retention has deleted this part, and the file is left over" in refusal.reason
    assert len(adoption.known) == 2


async def test_a_file_without_usernames_goes_before_one_that_has_them(
    database: str, fresh: str, places: list[Path], tmp_path: Path
) -> None:
    named = (await _archived(database, places[0]))[0]
    shutil.copytree(places[0], tmp_path / "kept")
    one = frozen.work(database, places[0])
    anonymous = await anonymising.remove_usernames(one, named)
    # A run that was killed before it deleted the old file, and a catalogue that was lost, or was not.
    shutil.copytree(tmp_path / "kept", places[0], dirs_exist_ok=True)
    for database_now in (fresh, database):
        adoption = await adopting.adopt(frozen.work(database_now, places[0]))
        assert [refusal.where for refusal in adoption.refused] == [f"{places[0]}/{FILE}"]
        assert "without usernames: `soulseek-research retain` removes this one" in adoption.refused[0].reason
        (found, *_) = await _catalogue(database_now)
        assert (found.usernames, found.sha256) == (False, anonymous.sha256)
    # Or killed before the catalogue knew: then that still counts.
    async with databases.connected(database) as connection:
        await catalogue.change(
            connection, anonymous, usernames=True, file_path=named.file_path, file_size=named.file_size,
            sha256=named.sha256, checksum=named.checksum, tally=named.tally.to_json() if named.tally else None,
        )  # fmt: skip
    adoption = await adopting.adopt(one)
    (refusal,) = adoption.refused
    assert refusal.where.endswith("anonymous.parquet")
    assert adoption.known[0].usernames


async def test_a_month_that_somebody_works_on_is_left_alone(database: str, fresh: str, places: list[Path]) -> None:
    await _archived(database, places[0])
    async with databases.connected(fresh) as other, locks.month_locked(other, MONTH):
        with pytest.raises(ArchiveBusyError, match="another run is working"):
            await adopting.adopt(frozen.work(fresh, places[0]))


async def test_every_file_is_looked_at_in_every_place(database: str, places: list[Path]) -> None:
    parts = await _archived(database, *places)
    one, other = map(str, places)
    reports: list[Progress] = []
    work = frozen.work(database, *places, report=reports.append)
    assert await adopting.check_all(work) == [(part, place, None) for part in parts for place in (one, other)]
    assert reports[-1].rows == reports[-1].rows_expected == 2 * (len(ROWS) + len(LATE_ROWS) + len(LATER_ROWS))

    _swap(places[0] / FILE)
    (places[1] / layout.manifest_name(FILE)).unlink()
    problems = {(part.name, place): problem for part, place, problem in await adopting.check_all(work) if problem}
    assert set(problems) == {(f"{MONTH}", one), (f"{MONTH}", other)}
    assert "SHA-256" in problems[f"{MONTH}", one]
    assert "no manifest" in problems[f"{MONTH}", other]
    quick = {place for _, place, problem in await adopting.check_all(work, deep=False) if problem}
    assert quick == {other}, "only who reads the file sees a byte that was swapped"

    shutil.rmtree(places[1])
    # Also where the settings do not name the place any more.
    problems = {
        (part.name, place): problem
        for part, place, problem in await adopting.check_all(frozen.work(database))
        if problem
    }
    assert len([place for _, place in problems if place == other]) == 3


async def test_a_part_that_is_not_archived_is_not_looked_at(database: str, places: list[Path]) -> None:
    await frozen.store(database, ROWS)
    work = frozen.work(database, *places)
    await sealing.seal(work, MONTH)
    assert await adopting.check_all(work) == []


async def test_an_object_store_is_adopted(
    database: str, fresh: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with S3Server(tmp_path) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        settings = ArchiveSettings(archive=f"{server.bucket('archive')}/searches")
        await frozen.store(database, ROWS)
        await frozen.archive(works.work(Location(database), settings))
        anew = works.work(Location(fresh), settings)
        (part,) = (await adopting.adopt(anew)).adopted
        assert list(part.places) == ["s3://archive/searches"]
        recording.check_file(anew.destinations[0], part, deep=True)
        await restoring.restore(anew, MONTH)
    assert await frozen.held(fresh) == ROWS
    # Now that the store is away, a look says so and does not fail.
    monkeypatch.setattr("soulseek_research.storage.archive.object_store.RETRIES", 0)
    ((_, _, problem),) = await adopting.check_all(works.work(Location(fresh), settings))
    assert problem is not None
    assert "cannot be reached" in problem
