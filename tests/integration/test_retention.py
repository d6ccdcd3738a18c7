"""What retention asks for, and what is there when it has been carried out, also after a kill at any point."""

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import pytest
from click.testing import CliRunner, Result

from flows.commands.retain import retain
from soulseek_research.storage import migrations
from soulseek_research.storage.archive import catalogue, deleting, locks, recording, restoring, retention
from soulseek_research.storage.archive import work as works
from soulseek_research.storage.archive.catalogue import Part, State
from soulseek_research.storage.archive.destination import Destination, Writer
from soulseek_research.storage.archive.errors import ArchiveBusyError, ArchiveError
from soulseek_research.storage.archive.retention import Policy, What
from soulseek_research.storage.archive.settings import ArchiveSettings, Format
from soulseek_research.storage.archive.work import Work
from soulseek_research.storage.location import Location
from tests import databases, frozen
from tests.frozen import MONTH
from tests.s3_server import S3Server

NOW = datetime.now(UTC)
ROWS = frozen.searches(700)
NAMELESS = [(*row[:6], "", row[7]) for row in ROWS]
USERNAMES = Policy(usernames_months=1)
ARCHIVES = Policy(archive_months=1)


@pytest.fixture
def places(tmp_path: Path) -> list[Path]:
    return [tmp_path / "one", tmp_path / "two"]


@pytest.fixture
def work(database: str, places: list[Path]) -> Work:
    return frozen.work(database, *places)


async def archived(work: Work, *, drop: bool = True) -> Part:
    """The searches of MONTH, archived."""
    await frozen.store(work.database.dsn, ROWS)
    (part,) = await frozen.archive(work)
    return await deleting.delete(work, part) if drop else part


async def carry_out(work: Work, policy: Policy) -> list[What]:
    actions = await retention.plan(work, policy)
    for action in actions:
        await retention.apply(work, action)
    return [action.what for action in actions]


async def the_part(work: Work) -> Part:
    async with work.database.session() as connection:
        return await catalogue.part(connection, MONTH, 1)


def files(place: Path) -> list[str]:
    return sorted(path.name for path in place.rglob("*") if path.is_file())


def names(form: Format = Format.PARQUET, *, anonymous: bool = False) -> list[str]:
    name = f"searches_{MONTH}{'.anonymous' if anonymous else ''}.{form}"
    return [name, f"{name}.manifest.json"]


def named(place: Path) -> bool:
    """Whether anything in a place holds a username; of the manifests, whether one names a key."""
    return any(b"person" in path.read_bytes() for path in place.rglob("*") if path.is_file())


async def test_the_policy_is_data(work: Work) -> None:
    async with work.database.session() as connection:
        assert await retention.policy(connection) == Policy(1, None, None)
        await retention.set_policy(connection, Policy(3, 12, 36))
        assert await retention.policy(connection) == Policy(3, 12, 36)
        with pytest.raises(ArchiveError, match="cannot go after 12 months"):
            await retention.set_policy(connection, Policy(13, 12, None))


async def test_a_table_goes_when_it_is_archived_and_old_enough(work: Work, places: list[Path]) -> None:
    await frozen.store(work.database.dsn, ROWS)
    async with work.database.session() as connection:
        await connection.fetchval("SELECT seal_month($1)", MONTH.first_day)
    assert await retention.plan(work, Policy(0)) == []  # sealed only: it is nowhere else
    await frozen.archive(work)
    assert await retention.plan(work, Policy(2)) == []
    (action,) = await retention.plan(work, Policy(1))
    assert (action.what, action.final) == (What.DROP_TABLE, False)
    assert action.why == "1 newer month is over, and 1 stay queryable"
    assert action.bytes > 0
    assert (await retention.apply(work, action)).table_name is None
    assert await retention.plan(work, Policy(0)) == []
    assert [files(place) for place in places] == [names(), names()]
    # What somebody brought back stays until somebody drops it.
    await restoring.restore(work, MONTH)
    assert await retention.plan(work, Policy(0)) == []


@pytest.mark.parametrize("form", Format)
async def test_usernames_go_from_the_files_and_nothing_else(database: str, places: list[Path], form: Format) -> None:
    work = frozen.work(database, *places, form=form)
    before = await archived(work, drop=False)
    assert await retention.plan(work, Policy(usernames_months=2)) == [
        *await retention.plan(work, Policy())  # the table
    ]
    assert await carry_out(work, USERNAMES) == [What.REMOVE_USERNAMES]
    assert [files(place) for place in places] == [names(form, anonymous=True)] * 2
    assert not any(map(named, places))
    part = await the_part(work)
    assert part.table_name is None
    assert not part.usernames
    assert part.key_ids == []
    assert before.tally is not None
    assert part.tally == dataclasses.replace(before.tally, username_bytes=0)
    for destination in work.destinations:
        manifest = recording.check_file(destination, part, deep=True)
        assert (manifest.usernames, manifest.key_ids, manifest.tally) == (False, (), part.tally)
    assert await retention.plan(work, USERNAMES) == []
    await restoring.restore(work, MONTH)
    assert await frozen.held(database) == NAMELESS
    assert await retention.plan(work, USERNAMES) == []


async def test_what_was_restored_with_usernames_is_dropped_with_them(work: Work) -> None:
    await archived(work)
    await restoring.restore(work, MONTH)
    assert await frozen.held(work.database.dsn) == ROWS
    assert await carry_out(work, USERNAMES) == [What.REMOVE_USERNAMES]
    assert await frozen.held(work.database.dsn) == []


async def test_an_archive_is_deleted_everywhere_and_the_catalogue_says_so(work: Work, places: list[Path]) -> None:
    await archived(work, drop=False)
    assert await retention.plan(work, Policy(2, None, 2)) == []
    assert await carry_out(work, ARCHIVES) == [What.DELETE_ARCHIVE]
    assert [files(place) for place in places] == [[], []]
    part = await the_part(work)
    assert (part.state, part.table_name, part.places, part.rows) == (State.EXPIRED, None, [], 700)
    assert await retention.plan(work, ARCHIVES) == []
    with pytest.raises(ArchiveError):
        await restoring.restore(work, MONTH)
    # A copy that somebody brings back goes as well.
    stray = places[0] / str(MONTH.year) / names()[0]
    stray.write_bytes(b"")
    assert [action.why for action in await retention.plan(work)] == [f"a file of it still lies in {places[0]}"]
    await carry_out(work, Policy())
    assert not stray.exists()
    # Searches that come late are of another part, to which the same applies.
    await frozen.store(work.database.dsn, [(9999, *ROWS[0][1:])])
    assert [part.number for part in await frozen.archive(work)] == [2]
    assert await carry_out(work, ARCHIVES) == [What.DELETE_ARCHIVE]
    assert [files(place) for place in places] == [[], []]


async def test_a_place_may_be_an_object_store(
    database: str, places: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with S3Server(tmp_path) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        # Named first, so that the folder's file is copied from there.
        settings = ArchiveSettings(archive=f"{server.bucket('bucket')}, {places[0]}")
        work = works.work(Location(database), settings)
        await archived(work)
        await carry_out(work, USERNAMES)
        assert server.keys("bucket") == [f"{MONTH.year}/{name}" for name in names(anonymous=True)]
        part = await the_part(work)
        for destination in work.destinations:
            recording.check_file(destination, part, deep=True)
        await carry_out(work, ARCHIVES)
        assert (server.keys("bucket"), files(places[0])) == ([], [])


async def test_one_sound_copy_is_enough_and_without_one_the_usernames_stay(work: Work, places: list[Path]) -> None:
    await archived(work)
    (file,) = places[0].rglob("*.parquet")
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    await carry_out(work, USERNAMES)
    assert [files(place) for place in places] == [names(anonymous=True)] * 2
    part = await the_part(work)
    for destination in work.destinations:
        recording.check_file(destination, part, deep=True)


async def test_without_a_sound_copy_nothing_is_changed(work: Work, places: list[Path]) -> None:
    part = await archived(work)
    for place in places:
        (file,) = place.rglob("*.parquet")
        file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(ArchiveError, match=r"one/.* was changed or is damaged.*two/.* was changed or is damaged"):
        await carry_out(work, USERNAMES)
    assert await the_part(work) == part
    assert [files(place) for place in places] == [names(), names()]


async def test_a_table_whose_file_is_damaged_stays_whatever_retention_says(work: Work, places: list[Path]) -> None:
    await archived(work, drop=False)
    (file,) = places[1].rglob("*.parquet")
    file.write_bytes(b"")
    for policy in (Policy(0), USERNAMES, ARCHIVES):
        with pytest.raises(ArchiveError):
            await carry_out(work, policy)
    assert await frozen.held(work.database.dsn) == ROWS


async def test_a_month_that_another_run_works_on_is_busy(work: Work) -> None:
    await archived(work)
    async with databases.connected(work.database.dsn) as connection, locks.month_locked(connection, MONTH):
        for policy in (USERNAMES, ARCHIVES):
            with pytest.raises(ArchiveBusyError):
                await carry_out(work, policy)


class Killed(BaseException):
    """As kill -9 would: nothing is told, and nothing tidied up."""


class Mortal(Destination):
    """A destination in which the run dies at the n-th change, before or after it."""

    def __init__(self, inner: Destination, die: Callable[[], None]) -> None:
        self.url = inner.url
        self._inner = inner
        self._die = die

    @contextlib.contextmanager
    def create(self, name: str) -> Iterator[Writer]:
        self._die()
        with self._inner.create(name) as writer:
            yield writer
            self._die()
        self._die()

    def delete(self, name: str) -> None:
        self._die()
        self._inner.delete(name)
        self._die()

    def open(self, name: str) -> BinaryIO:
        return self._inner.open(name)

    def size(self, name: str) -> int | None:
        return self._inner.size(name)

    def names(self) -> Iterator[str]:
        return self._inner.names()

    def check(self) -> None:
        self._inner.check()


def mortal(work: Work, lives: int) -> Work:
    left = iter(range(lives))

    def die() -> None:
        if next(left, None) is None:
            raise Killed

    return dataclasses.replace(work, destinations=[Mortal(one, die) for one in work.destinations])


async def test_a_kill_at_any_change_is_made_good_by_the_next_run(work: Work, places: list[Path]) -> None:
    await archived(work)
    # Every change of the files, one further each time: the next run begins where the last one died.
    for lives in range(1000):
        try:
            await carry_out(mortal(work, lives), USERNAMES)
        except Killed:
            part = await the_part(work)
            sound = [is_sound(one, part) for one in work.destinations]
            assert all(sound), (lives, part)
        else:
            break
    assert lives > 12  # four files were written, with three moments each
    assert [files(place) for place in places] == [names(anonymous=True)] * 2
    assert not (await the_part(work)).usernames
    assert await retention.plan(work, USERNAMES) == []


def is_sound(destination: Destination, part: Part) -> bool:
    recording.check_file(destination, part, deep=True)
    return True


async def test_a_deletion_that_is_killed_anywhere_is_finished_whatever_the_policy_is_then(
    work: Work, places: list[Path]
) -> None:
    await archived(work)
    with pytest.raises(Killed):
        await carry_out(mortal(work, 0), ARCHIVES)
    for lives in range(1, 1000, 3):
        actions = await retention.plan(work, Policy())
        assert [action.why for action in actions] == ["its deletion was interrupted"]
        try:
            await carry_out(mortal(work, lives), Policy())
        except Killed:
            assert (await the_part(work)).state is State.EXPIRED
        else:
            break
    assert [files(place) for place in places] == [[], []]
    assert await retention.plan(work, Policy()) == []


async def test_usernames_left_behind_by_a_kill_are_found_whatever_the_policy_is_then(work: Work) -> None:
    await archived(work)
    for lives in range(1000):
        with contextlib.suppress(Killed):
            await carry_out(mortal(work, lives), USERNAMES)
        if not (await the_part(work)).usernames:
            break
    (action,) = await retention.plan(work, Policy())
    assert (action.what, action.why) == (
        What.REMOVE_USERNAMES,
        f"a file with usernames still lies in {work.destinations[0].url}, {work.destinations[1].url}",
    )
    assert await carry_out(work, Policy()) == [What.REMOVE_USERNAMES]
    assert await retention.plan(work, Policy()) == []


@pytest.fixture
def files_of_the_command(work: Work, places: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("url").write_text(work.database.dsn)


async def run(*arguments: str, answer: str | None = None) -> Result:
    command = [*arguments, "--database-url-file", "url", "--archive", "one,two"]
    return await asyncio.to_thread(CliRunner().invoke, retain, command, input=answer)


@pytest.mark.usefixtures("files_of_the_command")
async def test_the_command_shows_asks_and_carries_out(work: Work) -> None:
    part = await archived(work, drop=False)
    done = await run("--usernames-months", "1", "--dry-run")
    assert "Usernames in archives stay for 1 finished months." in done.output
    assert "remove usernames" in done.output
    assert "would be done" in done.output
    refused = await run("--usernames-months", "1")
    assert refused.exit_code == 2
    assert "say --yes" in refused.output
    assert await the_part(work) == part
    for wrong in ("0", "-1", "soon", "1e9", "²"):
        assert "write a number of months" in (await run("--archive-months", wrong)).output
    async with work.database.session() as connection:
        assert await retention.policy(connection) == Policy()
    done = await run("--json")
    (action,) = json.loads(done.stdout)["actions"]
    assert (action["what"], action["result"], action["month"]) == ("drop table", "done", str(MONTH))
    done = await run("--usernames-months", "1", "--yes", "--json")
    found = json.loads(done.stdout)
    assert found["policy"] == {"queryable_months": 1, "usernames_months": 1, "archive_months": None}
    assert [one["result"] for one in found["actions"]] == ["done"]
    assert not (await the_part(work)).usernames
    assert "There is nothing to do." in (await run("--usernames-months", "never")).output
    async with work.database.session() as connection:
        assert await retention.policy(connection) == Policy()


@pytest.mark.usefixtures("files_of_the_command")
async def test_on_a_terminal_the_command_asks(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    await archived(work)
    monkeypatch.setattr("flows.commands.retain._is_asked", lambda: True)
    refused = await run("--archive-months", "1", answer="n\n")
    assert refused.exit_code == 1
    assert (await the_part(work)).state is State.ARCHIVED
    assert (await run("--archive-months", "1", answer="y\n")).exit_code == 0
    assert (await the_part(work)).state is State.EXPIRED


@pytest.mark.usefixtures("files_of_the_command")
async def test_what_cannot_be_done_is_told_and_the_rest_is_done(work: Work, places: list[Path]) -> None:
    await archived(work, drop=False)
    await frozen.store(work.database.dsn, [(9999, *ROWS[0][1:])])
    await frozen.archive(work)
    (file,) = places[0].rglob(f"*{MONTH}.parquet")
    file.unlink()
    done = await run("--json")
    assert done.exit_code == 1
    first, second = json.loads(done.stdout)["actions"]
    assert f"{file} is missing" in first["result"]
    assert second["result"] == "done"


@pytest.mark.parametrize("policy", [USERNAMES, ARCHIVES], ids=["usernames", "archives"])
async def test_an_archive_of_another_database_is_not_deleted(
    database: str, work: Work, empty_database: str, tmp_path: Path, policy: Policy
) -> None:
    """It lies in a place that both archive to by now, under the name of a month that both have."""
    await archived(work)
    shared = tmp_path / "shared"
    async with databases.connected(empty_database) as owner:
        await migrations.migrate(owner)
    await frozen.store(empty_database, ROWS[:5])
    await frozen.archive(frozen.work(empty_database, shared))
    theirs = {path: path.read_bytes() for path in shared.rglob("*") if path.is_file()}
    with pytest.raises(ArchiveError, match="holds other searches"):
        await carry_out(frozen.work(database, shared), policy)
    assert {path: path.read_bytes() for path in theirs} == theirs
