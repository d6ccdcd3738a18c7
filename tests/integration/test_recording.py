import asyncio
import json
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest

from soulseek_research.storage.archive import (
    catalogue,
    exporting,
    layout,
    locks,
    manifest,
    recording,
    sealing,
    verifying,
)
from soulseek_research.storage.archive import work as works
from soulseek_research.storage.archive.catalogue import Part, State
from soulseek_research.storage.archive.errors import ArchiveBusyError, ArchiveError, is_passing
from soulseek_research.storage.archive.folder import Folder
from soulseek_research.storage.archive.manifest import Gap, Stretch
from soulseek_research.storage.archive.progress import Progress
from soulseek_research.storage.archive.settings import ArchiveSettings, Format
from soulseek_research.storage.archive.work import Work
from soulseek_research.storage.errors import StorageError
from soulseek_research.storage.location import Location
from tests import databases, frozen
from tests.frozen import MONTH
from tests.s3_server import S3Server

ROWS = frozen.searches(300)


@pytest.fixture
def places(tmp_path: Path) -> list[Path]:
    return [tmp_path / "one", tmp_path / "other"]


@pytest.fixture
def two(database: str, places: list[Path]) -> Work:
    """A database with archives in two folders."""
    return frozen.work(database, *places)


@pytest.fixture
async def verified(database: str, two: Work) -> Part:
    return await _verified(database, two)


async def _verified(database: str, one: Work) -> Part:
    await frozen.store(database, ROWS)
    (part,) = await sealing.seal(one, MONTH)
    return await verifying.verify(one, await exporting.export(one, part))


async def _now(database: str, part: Part) -> Part:
    async with databases.connected(database) as connection:
        return await catalogue.part(connection, part.month, part.number)


async def test_a_part_counts_once_its_manifest_stands_in_every_place(two: Work, verified: Part, database: str) -> None:
    reports: list[Progress] = []
    part = await recording.record(Work(two.database, two.settings, two.destinations, reports.append), verified)
    assert part == await _now(database, part)
    assert part.state is State.ARCHIVED
    assert part.archived_at is not None
    assert part.software is not None
    assert part.software.startswith("soulseek-research ")
    assert part.seconds > verified.seconds
    assert reports == [Progress("record", len(ROWS), len(ROWS), part.file_size or 0)]
    assert part.file_path is not None
    one, other = (destination.read(layout.manifest_name(part.file_path)) for destination in two.destinations)
    assert one == other
    for destination in two.destinations:
        found = recording.check_file(destination, part, deep=True)
        assert recording.differences(part, found) == []
        assert (found.archived_at, found.sealed_at, found.verified_at) == (
            part.archived_at,
            part.sealed_at,
            part.verified_at,
        )
        assert (found.first_timestamp, found.last_timestamp) == (ROWS[0][1], ROWS[-1][1])
        assert list(found.key_ids) == part.key_ids == ["key"]
        assert (found.table_size, found.column_sizes) == (part.table_size, part.column_sizes)
        assert found.postgresql[:2].isdigit()


async def test_it_holds_the_coverage_and_the_gaps_of_the_month(database: str, two: Work, verified: Part) -> None:
    start, end = MONTH.start, MONTH.end
    hour = timedelta(hours=1)
    inside = [(start - hour, start + hour), (start + hour, start + 2 * hour), (end - hour, end + hour)]
    outside = [(start - 2 * hour, start - hour), (end, end + hour)]
    async with databases.connected(database) as connection:
        await connection.execute("INSERT INTO collectors (client_id) VALUES ('eu'), ('us')")
        for client in ("us", "eu"):
            for started_at, ended_at in [*reversed(inside), *outside]:
                await connection.execute(
                    "INSERT INTO coverage (stretch_id, client_id, segment_id, started_at, ended_at, end_reason, role,"
                    " branch_level, kept, duplicates) VALUES (gen_random_uuid(), $1, gen_random_uuid(), $2, $3, 'lost',"
                    " 'child', 4, 100, 3)",
                    client, started_at, ended_at,
                )  # fmt: skip
        await connection.execute(
            "INSERT INTO gaps (client_id, started_at, ended_at, reason, searches, detail)"
            " VALUES ('eu', $1, $2, 'spool full', 7, NULL), ('eu', $2, $2, 'too late', NULL, 'x')",
            start - hour, end,
        )  # fmt: skip
    part = await recording.record(two, verified)
    found = recording.check_file(two.destinations[0], part)
    assert found.coverage == tuple(
        Stretch(client, started_at, ended_at, "child", 4, 100, 3, 0, 0, "lost")
        for client in ("eu", "us")
        for started_at, ended_at in inside
    )
    assert found.gaps == (Gap("eu", start - hour, end, "spool full", 7, None),)


async def test_recording_again_writes_only_what_is_missing(two: Work, verified: Part) -> None:
    part = await recording.record(two, verified)
    assert await recording.record(two, part) == part
    assert await recording.record(two, verified) == part, "what the catalogue says counts"
    one, other = two.destinations
    name = layout.manifest_name(part.file_path or "")
    before = one.read(name)
    other.delete(name)
    with pytest.raises(ArchiveError, match="has no manifest: without one the file does not count"):
        recording.check_file(other, part)
    again = await recording.record(two, part)
    assert (again.archived_at, again.state) == (part.archived_at, State.ARCHIVED)
    assert one.read(name) == before
    assert manifest.load(other.read(name), name) == manifest.load(before, name)


async def test_a_place_that_takes_no_manifest_leaves_the_part_as_it_was(
    database: str, two: Work, verified: Part, places: list[Path]
) -> None:
    name = layout.manifest_name(verified.file_path or "")
    (places[1] / name).mkdir()
    with pytest.raises(ArchiveError, match="a folder is in the way"):
        await recording.record(two, verified)
    assert await _now(database, verified) == verified
    (places[1] / name).rmdir()
    assert (await recording.record(two, verified)).state is State.ARCHIVED


async def test_a_month_in_which_nobody_searched(database: str, two: Work) -> None:
    await frozen.store(database, [])
    (part,) = await frozen.archive(two)
    found = recording.check_file(two.destinations[0], part, deep=True)
    assert (found.rows, found.first_timestamp, found.last_timestamp, found.key_ids) == (0, None, None, ())


@pytest.mark.parametrize("steps", [0, 1])
async def test_what_is_not_verified_is_not_recorded(database: str, two: Work, steps: int) -> None:
    await frozen.store(database, ROWS)
    (part,) = await sealing.seal(two, MONTH)
    for _ in range(steps):
        part = await exporting.export(two, part)
    with pytest.raises(ArchiveError, match=f"{MONTH} is {part.state}: it is recorded once it has been verified"):
        await recording.record(two, part)
    assert not [name for name in two.destinations[0].names() if name.endswith("json")]


Harm = Callable[[Path], object]


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (Path.unlink, "is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "was changed or cut off"),
        (lambda path: path.write_bytes(path.read_bytes() + b"x"), "was changed or cut off"),
    ],
)
async def test_a_file_that_is_not_as_it_was_is_not_recorded(
    database: str, two: Work, verified: Part, places: list[Path], harm: Harm, words: str
) -> None:
    harm(places[1] / (verified.file_path or ""))
    with pytest.raises(ArchiveError, match=f"{places[1]}.*{words}"):
        await recording.record(two, verified)
    assert (await _now(database, verified)).state is State.VERIFIED
    assert not list(places[0].rglob("*.json"))


def _swap(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


async def test_what_became_of_a_file_is_noticed_and_named(two: Work, verified: Part, places: list[Path]) -> None:
    part = await recording.record(two, verified)
    destination = two.destinations[0]
    file = places[0] / (part.file_path or "")
    beside = Path(f"{file}.manifest.json")
    harms: list[tuple[Path, Harm, str, bool]] = [
        (file, Path.unlink, "is missing", False),
        (file, lambda path: path.write_bytes(path.read_bytes()[:-1]), "was changed or cut off", False),
        (file, _swap, "was changed or is damaged: its SHA-256 is not the one on record", True),
        (beside, Path.unlink, "has no manifest", False),
        (beside, lambda path: path.write_bytes(path.read_bytes()[:200]), "it is not JSON", False),
        (
            beside,
            lambda path: path.write_bytes(path.read_bytes().replace(b'"v1:', b'"v1:0')),
            "differs in checksum",
            False,
        ),
    ]
    for path, harm, words, only_deep in harms:
        shutil.copy2(path, path.with_suffix(".kept"))
        harm(path)
        with pytest.raises(ArchiveError, match=f"^{file}.*{words}"):
            recording.check_file(destination, part, deep=True)
        if only_deep:
            recording.check_file(destination, part)
        else:
            with pytest.raises(ArchiveError, match=words):
                recording.check_file(destination, part)
        path.with_suffix(".kept").replace(path)
    recording.check_file(destination, part, deep=True)


async def test_the_manifest_of_another_file_is_refused(two: Work, verified: Part, places: list[Path]) -> None:
    part = await recording.record(two, verified)
    name = layout.file_name(MONTH, 7, Format.PARQUET)
    for end in ("", layout.MANIFEST_SUFFIX):
        shutil.copy(places[0] / f"{part.file_path}{end}", places[0] / f"{name}{end}")
    with pytest.raises(ArchiveError, match="the files were renamed"):
        recording.read_manifest(two.destinations[0], name)


async def test_a_foreign_manifest_is_not_overwritten(
    database: str, two: Work, verified: Part, places: list[Path]
) -> None:
    part = await recording.record(two, verified)
    beside = places[1] / layout.manifest_name(part.file_path or "")
    document = json.loads(beside.read_bytes())
    beside.write_text(json.dumps(document | {"sha256": "0" * 64}))
    foreign = beside.read_bytes()
    async with databases.connected(database) as connection:
        await connection.execute("UPDATE archives SET state = 'verified'")
    for state in ("verified", "archived"):
        async with databases.connected(database) as connection:
            await connection.execute("UPDATE archives SET state = $1", state)
        with pytest.raises(ArchiveError, match="has a manifest that differs in SHA-256 from the catalogue"):
            await recording.record(two, part)
    assert beside.read_bytes() == foreign


async def test_a_place_that_the_settings_no_longer_name_is_found(database: str, two: Work, verified: Part) -> None:
    fewer = Work(two.database, two.settings, two.destinations[:1])
    part = await recording.record(fewer, verified)
    assert [one.url for one in recording.destinations_of(fewer.destinations, part)] == list(part.places)
    recording.check_file(two.destinations[1], part, deep=True)


async def test_two_runs_do_not_record_at_once(database: str, two: Work, verified: Part) -> None:
    async with databases.connected(database) as other, locks.month_locked(other, MONTH):
        with pytest.raises(ArchiveBusyError, match="another run is working"):
            await recording.record(two, verified)
    done = await asyncio.gather(*[_patiently(two, verified) for _ in range(4)])
    assert len({part.archived_at for part in done}) == 1


async def _patiently(two: Work, part: Part) -> Part:
    while True:
        try:
            return await recording.record(two, part)
        except ArchiveBusyError:
            await asyncio.sleep(0.02)


class _Stopping(Folder):
    """A folder whose manifests somebody waits at."""

    def __init__(self, path: Path, at_manifest: Callable[[], object]) -> None:
        super().__init__(path)
        self._at_manifest = at_manifest

    def write(self, name: str, data: bytes) -> None:
        super().write(name, data)
        self._at_manifest()


async def test_a_connection_that_is_lost_before_commit_is_made_good(
    database: str, two: Work, verified: Part, places: list[Path]
) -> None:
    loop = asyncio.get_running_loop()

    async def end_the_others() -> None:
        async with databases.connected(database) as connection:
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )

    def cut() -> None:
        asyncio.run_coroutine_threadsafe(end_the_others(), loop).result(10)

    stopping = _Stopping(places[1], cut)
    with pytest.raises((StorageError, asyncpg.PostgresError)) as lost:
        await recording.record(Work(two.database, two.settings, [two.destinations[0], stopping]), verified)
    assert is_passing(lost.value)
    assert await _now(database, verified) == verified
    part = await recording.record(two, verified)
    assert part.state is State.ARCHIVED
    for destination in two.destinations:
        assert recording.check_file(destination, part, deep=True).archived_at == part.archived_at


async def test_an_object_store_and_a_folder_hold_the_same(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with S3Server(tmp_path) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        urls = [f"{server.bucket('archive')}/searches", str(tmp_path / "archive")]
        both = works.work(Location(database), ArchiveSettings(archive=",".join(urls)))
        await frozen.store(database, ROWS)
        (part,) = await frozen.archive(both)
        assert list(part.places) == urls
        one, other = (destination.read(part.file_path or "") for destination in both.destinations)
        assert one == other
        for destination in both.destinations:
            recording.check_file(destination, part, deep=True)
        assert [key.removeprefix("searches/") for key in server.keys("archive")] == list(both.destinations[1].names())
