"""A sealed table becomes a file that is proven, or the table stays."""

import asyncio
import dataclasses
import stat
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from soulseek_research.storage import queries
from soulseek_research.storage.archive import catalogue, exporting, monthly, recording, sealing, verifying
from soulseek_research.storage.archive.catalogue import Part, State
from soulseek_research.storage.archive.errors import ArchiveError, is_passing
from soulseek_research.storage.archive.progress import Progress
from soulseek_research.storage.archive.settings import Format
from soulseek_research.storage.archive.work import Work
from soulseek_research.storage.errors import StorageError
from soulseek_research.storage.location import Location
from tests import databases, frozen
from tests.frozen import LATER_MONTH, MONTH
from tests.proxy import Proxy

ROWS = frozen.searches(2000)
MANY_ROWS = frozen.searches(30_000)  # 2 MB of text
NAME = f"{MONTH.year}/searches_{MONTH}.parquet"


@pytest.fixture
def work(database: str, tmp_path: Path) -> Work:
    return frozen.work(database, tmp_path)


async def sealed(database: str, work: Work) -> Part:
    await frozen.store(database, ROWS)
    (part,) = await sealing.seal(work, MONTH)
    return part


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("form", Format)
async def test_the_whole_way(database: str, tmp_path: Path, form: Format) -> None:
    reports: list[Progress] = []
    work = frozen.work(database, tmp_path, form=form, report=reports.append)
    await frozen.store(database, ROWS)
    (part,) = await monthly.archive_month(work, MONTH)
    name = NAME.replace("parquet", form)
    assert (part.state, part.table_name, part.rows, part.file_path) == (State.ARCHIVED, None, len(ROWS), name)
    assert part.first_timestamp == ROWS[0][1]
    assert part.last_timestamp == ROWS[-1][1]
    assert part.key_ids == ["key"]
    assert (part.column_sizes is not None) == (form is Format.PARQUET)
    assert files(tmp_path) == [name, f"{name}.manifest.json"]
    assert part.file_size == (tmp_path / name).stat().st_size
    assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    assert [step for step in ("export", "verify", "record", "delete") if step in {one.step for one in reports}]
    assert await frozen.held(database) == []
    assert await monthly.archive_month(work, MONTH) == []


async def test_a_month_without_a_search_is_an_archive_of_none(database: str, work: Work, tmp_path: Path) -> None:
    await frozen.store(database, [])
    (part,) = await monthly.archive_month(work, MONTH)
    assert (part.state, part.rows, part.first_timestamp, part.table_name) == (State.ARCHIVED, 0, None, None)
    assert pq.read_table(tmp_path / NAME).num_rows == 0


async def test_a_late_part_replaces_nothing(database: str, work: Work, tmp_path: Path) -> None:
    await frozen.store(database, ROWS)
    await monthly.archive_month(work, MONTH)
    before = (tmp_path / NAME).read_bytes()
    await frozen.store(database, frozen.searches(7, first_id=9000))
    (part,) = await monthly.archive_month(work, MONTH)
    assert (part.number, part.rows) == (2, 7)
    assert part.file_path == NAME.replace(".parquet", ".part2.parquet")
    assert (tmp_path / NAME).read_bytes() == before


async def test_retention_keeps_the_last_finished_month_and_keep_keeps_any(database: str, work: Work) -> None:
    last = LATER_MONTH
    await frozen.store(database, frozen.searches(5, last, first_id=1), last)
    await frozen.store(database, frozen.searches(5, first_id=100))
    (kept,) = await monthly.archive_month(work, last)
    assert (kept.state, kept.table_name) == (State.ARCHIVED, f"sealed_{last.first_day:%Y_%m}_part1")
    (kept,) = await monthly.archive_month(work, MONTH, keep=True)
    assert kept.table_name is not None
    (gone,) = await monthly.archive_month(work, MONTH)
    assert gone.table_name is None


async def test_what_is_done_is_not_done_again(database: str, work: Work, tmp_path: Path) -> None:
    part = await exporting.export(work, await sealed(database, work))
    written = (tmp_path / NAME).stat().st_mtime_ns
    assert await exporting.export(work, part) == part
    part = await verifying.verify(work, part)
    assert await verifying.verify(work, part) == part
    assert await exporting.export(work, part) == part
    assert (tmp_path / NAME).stat().st_mtime_ns == written


async def test_a_file_that_went_away_is_written_again(database: str, work: Work, tmp_path: Path) -> None:
    part = await verifying.verify(work, await exporting.export(work, await sealed(database, work)))
    (tmp_path / NAME).unlink()
    part = await exporting.export(work, part)
    assert part.state is State.EXPORTED
    assert (tmp_path / NAME).stat().st_size == part.file_size


async def test_what_another_attempt_left_is_replaced_but_never_an_archive(
    database: str, work: Work, tmp_path: Path
) -> None:
    part = await sealed(database, work)
    (tmp_path / NAME).parent.mkdir()
    (tmp_path / NAME).write_bytes(b"half")
    await recording.record(work, await verifying.verify(work, await exporting.export(work, part)))
    manifest = (tmp_path / f"{NAME}.manifest.json").read_bytes()
    async with databases.connected(database) as owner:
        await owner.execute("UPDATE archives SET state = 'sealed', sha256 = NULL")
    with pytest.raises(ArchiveError, match=r"already holds an archive .* that this database does not know: move it"):
        await exporting.export(work, part)
    with pytest.raises(ArchiveError, match="already holds an archive"):
        await exporting.export(frozen.work(database, tmp_path, form=Format.CSV_ZST), part)
    assert (tmp_path / f"{NAME}.manifest.json").read_bytes() == manifest


async def test_an_archive_that_came_meanwhile_is_not_overwritten(
    database: str, work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another database archives to the same place, or a run took over from one whose connection was lost."""
    part = await sealed(database, work)
    await recording.record(work, await verifying.verify(work, await exporting.export(work, part)))
    theirs = contents(tmp_path)
    for path in theirs:
        path.unlink()
    async with databases.connected(database) as owner:
        await owner.execute("UPDATE archives SET state = 'sealed', sha256 = NULL")
    run = exporting._Export.run

    async def overtaken(self: exporting._Export, *how: Any) -> None:
        await run(self, *how)
        for path, data in theirs.items():
            path.write_bytes(data)

    monkeypatch.setattr(exporting._Export, "run", overtaken)
    with pytest.raises(ArchiveError, match="already holds an archive"):
        await exporting.export(work, part)
    assert contents(tmp_path) == theirs


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize("harm", [flipped, lambda data: data[:-1], lambda data: data[:0]], ids=["flip", "cut", "empty"])
async def test_a_harmed_file_is_never_followed_by_a_deletion(database: str, work: Work, tmp_path: Path, harm) -> None:  # noqa: ANN001
    part = await exporting.export(work, await sealed(database, work))
    (tmp_path / NAME).write_bytes(harm((tmp_path / NAME).read_bytes()))
    with pytest.raises(ArchiveError, match="was not archived, and stays in the database") as refused:
        await verifying.verify(work, part)
    assert not is_passing(refused.value)
    assert await frozen.held(database) == ROWS
    (part,) = await monthly.archive_month(work, MONTH)  # the next run writes it anew
    assert part.state is State.ARCHIVED


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE {table} SET query = 'other text' WHERE id = 7",
        "UPDATE {table} SET ticket = ticket + 1 WHERE id = 8",
        "UPDATE {table} SET ticket = 0 WHERE ticket IS NULL AND id < 9",
        "UPDATE {table} SET timestamp = timestamp + interval '1 millisecond' WHERE id = 9",
        "DELETE FROM {table} WHERE id = 2000",
        "INSERT INTO {table} SELECT * FROM {table} WHERE id = 1",
    ],
)
async def test_a_file_that_is_not_what_sql_says_of_the_table_is_refused(database: str, work: Work, change: str) -> None:
    """A wrong parse would look like this: stream and file agree, and the table says something else."""
    part = await exporting.export(work, await sealed(database, work))
    async with databases.connected(database) as owner:
        await owner.execute(change.format(table=part.table_name))
    with pytest.raises(ArchiveError, match="the file differs from the table"):
        await verifying.verify(work, part)
    async with databases.connected(database) as owner:
        assert (await catalogue.part(owner, MONTH, 1)).state is State.SEALED


async def test_a_row_that_was_changed_on_the_way_is_noticed_by_its_checksum(database: str, work: Work) -> None:
    """Two queries that changed places leave every sum as it was."""
    part = await exporting.export(work, await sealed(database, work))
    async with databases.connected(database) as owner:
        other = await catalogue.change(owner, part, checksum="v1:0123456789abcdef")
    with pytest.raises(ArchiveError, match=r"differs from what was sent: checksum: v1:.* and v1:0123456789abcdef"):
        await verifying.verify(work, other)


async def test_a_recording_that_was_cut_short_is_no_obstacle(database: str, work: Work, tmp_path: Path) -> None:
    """Its manifest stands, the catalogue has not heard of it, and then the file is lost."""
    part = await verifying.verify(work, await exporting.export(work, await sealed(database, work)))
    await recording.record(work, part)
    async with databases.connected(database) as owner:
        await catalogue.change(owner, part, state=State.VERIFIED)
    (tmp_path / NAME).unlink()
    (part,) = await monthly.archive_month(work, MONTH)
    assert (part.state, part.table_name) == (State.ARCHIVED, None)


async def test_the_keys_of_a_month_are_named(database: str, work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "PIECE_BYTES", 1000)
    names = ["aaaaaaaa.x", "bbbbbbbb.x", "aaaaaaaa.y", "no key", "", "cccc.x.y"]
    rows = [(*row[:6], names[place // 500 % 6], row[7]) for place, row in enumerate(MANY_ROWS)]
    await frozen.store(database, rows)
    (part,) = await sealing.seal(work, MONTH)
    assert (await exporting.export(work, part)).key_ids == ["aaaaaaaa", "bbbbbbbb", "cccc"]


async def test_a_place_is_not_named_twice(database: str, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="is named twice"):
        frozen.work(database, tmp_path, tmp_path)


async def test_every_place_is_written_and_read_back(database: str, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    work = frozen.work(database, one, other)
    part = await exporting.export(work, await sealed(database, work))
    assert (one / NAME).read_bytes() == (other / NAME).read_bytes()
    assert part.places == [destination.url for destination in work.destinations]
    (other / NAME).write_bytes(flipped((other / NAME).read_bytes()))
    with pytest.raises(ArchiveError, match=str(other)):
        await verifying.verify(frozen.work(database, one), part)  # also one that is no longer set up


async def test_a_folder_that_takes_nothing_is_one_clear_line(database: str, tmp_path: Path) -> None:
    obstacle = tmp_path / "file"
    obstacle.write_text("not a folder")
    work = frozen.work(database, obstacle / "archive")
    part = await sealed(database, work)
    with pytest.raises(ArchiveError) as refused:
        await exporting.export(work, part)
    assert "\n" not in str(refused.value)
    assert not is_passing(refused.value)
    assert await frozen.held(database) == ROWS


async def test_a_cut_line_leaves_no_file_and_the_next_try_ends_well(database: str, work: Work, tmp_path: Path) -> None:
    await frozen.store(database, MANY_ROWS)
    (part,) = await sealing.seal(work, MONTH)
    async with Proxy(database) as proxy:
        proxy.at_copied = (500_000, proxy.cut)
        with pytest.raises(StorageError) as lost:
            await exporting.export(dataclasses.replace(work, database=Location(proxy.dsn)), part)
    assert is_passing(lost.value)
    assert files(tmp_path) == []
    async with databases.connected(database) as owner:
        assert (await catalogue.part(owner, MONTH, 1)).state is State.SEALED
    (part,) = await monthly.archive_month(work, MONTH)
    assert part.rows == len(MANY_ROWS)


@pytest.mark.parametrize(("bound", "most"), [("GROUP_ROWS", 200), ("GROUP_BYTES", 16_000)])
async def test_memory_does_not_grow_with_the_month(
    database: str, work: Work, monkeypatch: pytest.MonkeyPatch, bound: str, most: int
) -> None:
    """Of the stream no more is held at any time than a group being gathered, one being written, and some pieces.

    However long its queries are: half a million of 4096 characters would be more than Arrow can hold.
    """
    monkeypatch.setattr(exporting, "PIECE_BYTES", 4000)
    monkeypatch.setattr(exporting, bound, most)
    held = []
    gathered = exporting._Export._parse_received

    async def parse_received(self: exporting._Export) -> None:
        await gathered(self)
        held.append(self._rows_in_group)

    monkeypatch.setattr(exporting._Export, "_parse_received", parse_received)
    await frozen.store(database, MANY_ROWS)
    (part,) = await sealing.seal(work, MONTH)
    assert (await exporting.export(work, part)).rows == len(MANY_ROWS)
    assert len(held) > 5
    assert max(held) < len(MANY_ROWS) / 2


async def test_the_sums_in_sql_are_those_of_the_tally(database: str, work: Work) -> None:
    part = await exporting.export(work, await sealed(database, work))
    assert part.table_name is not None
    async with databases.connected(database) as owner:
        assert await verifying.count_frozen(owner, part.table_name) == part.tally
        row = await owner.fetchrow(queries.load("tally").format(table=part.table_name))
        assert set(row.keys()) == {field.name for field in dataclasses.fields(part.tally)}


async def test_two_runs_at_once_make_one_archive(database: str, work: Work, tmp_path: Path) -> None:
    await frozen.store(database, ROWS)
    runs = await asyncio.gather(*(monthly.archive_month(work, MONTH) for _ in range(3)), return_exceptions=True)
    for run in runs:
        assert isinstance(run, list) or is_passing(run), run
    await monthly.archive_month(work, MONTH)
    assert files(tmp_path) == [NAME, f"{NAME}.manifest.json"]
    async with databases.connected(database) as owner:
        (part,) = await catalogue.parts(owner, MONTH)
    assert (part.state, part.table_name) == (State.ARCHIVED, None)
    assert pq.read_table(tmp_path / NAME).num_rows == len(ROWS)
