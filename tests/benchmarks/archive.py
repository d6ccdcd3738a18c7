"""What it costs to archive a month, from the seal to the drop, against a bare COPY and the predecessor's way."""

import dataclasses
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pyarrow import parquet

from soulseek_research.storage.archive import catalogue
from soulseek_research.storage.archive.month import Month
from tests import databases, months
from tests.benchmarks import archive_month, command, measure
from tests.benchmarks.command import Run
from tests.benchmarks.measure import Figure
from tests.benchmarks.store import Store

COPY_TIMES = 3.0
PREDECESSOR_TIMES = 2.5
MEGABYTES = 512.0
SMALLER = 10.0
UNIQUE_PERCENT = 90.0
WHOLE = "archive of a month, the whole command"


@dataclass(frozen=True)
class Scale:
    """How large the month is.

    Attributes:
        block: How many of its searches are made by people one by one: see `tests/months.py`.
        times: Once more, alone, so many times larger.
    """

    runs: int = 3
    searches: int = 5_000_000
    block: int = 1_000_000
    times: int = 10


@dataclass(frozen=True)
class Archived:
    """One archive of the month, beside a bare COPY of the same table.

    Attributes:
        work: Seconds from the seal to the drop by the database's clock, without the start of the program.
        column_sizes: Bytes in the file, by column.
    """

    bare: Run
    whole: Run
    work: float
    table_size: int
    file_size: int
    column_sizes: dict[str, int]


async def figures(store: Store, scale: Scale) -> list[Figure]:
    """All by turns on copies of the same month."""
    month, block = months.finished(), months.block(scale.block)
    ours: list[Archived] = []
    theirs: list[Run] = []
    async with archive_month.ours(store, month, scale.searches, block) as dsn:
        async with databases.connected(dsn) as connection:
            unique = 100 * await months.unique_share(connection, month)
        async with archive_month.theirs(store, dsn) as other:
            for _ in range(scale.runs):
                async with store.copied(dsn) as copy:
                    ours.append(await _archive(store, copy, month, scale.searches))
                async with store.copied(other) as copy:
                    theirs.append(await _predecessor(store, copy, month, scale.searches))
    found = _compared(ours, theirs) + _sizes(ours[0], scale.searches, unique)
    if scale.times > 1:
        rows = scale.times * scale.searches
        async with archive_month.ours(store, month, rows, block) as dsn:
            found += _larger(await _archive(store, dsn, month, rows), scale.times)
    return found


async def _archive(store: Store, dsn: str, month: Month, rows: int) -> Archived:
    """First the bare COPY, then the archive."""
    table = archive_month.partition(month)
    async with databases.connected(dsn) as connection:
        table_size = await connection.fetchval("SELECT pg_total_relation_size($1::regclass)", table)
        await connection.execute("CHECKPOINT")
    bare = await command.run(
        ["sh", "-c", 'exec "$0" -X -c "$1" "$2" > /dev/null', archive_month.psql(), f"COPY {table} TO STDOUT", dsn],
        store.folder(),
    )
    folder = store.folder()
    whole = await command.run(
        [sys.executable, "-m", "flows.cli", "archive", "--month", str(month)],
        folder,
        SOULSEEK_RESEARCH_DATABASE_URL=dsn,
        SOULSEEK_RESEARCH_DATA_DIR=str(folder),
    )
    async with databases.connected(dsn) as connection:
        part = await catalogue.part(connection, month, 1)
        left = await connection.fetchval("SELECT count(*) FROM searches_all")
    file = parquet.read_metadata(path := folder / "archive" / str(part.file_path))
    assert (part.rows, file.num_rows, left) == (rows, rows, 0), f"of {rows}: {part.rows}, {file.num_rows}, left {left}"
    assert part.sealed_at is not None
    assert part.deleted_at is not None
    work = (part.deleted_at - part.sealed_at).total_seconds()
    return Archived(bare, whole, work, table_size, path.stat().st_size, _column_sizes(file))


def _column_sizes(file: parquet.FileMetaData) -> dict[str, int]:
    groups = [file.row_group(number) for number in range(file.num_row_groups)]
    columns = [group.column(number) for group in groups for number in range(file.num_columns)]
    sizes = Counter[str]()
    for column in columns:
        sizes[column.path_in_schema] += column.total_compressed_size
    return dict(sizes)


async def _predecessor(store: Store, dsn: str, month: Month, rows: int) -> Run:
    async with databases.connected(dsn) as connection:
        await connection.execute("CHECKPOINT")
    folder = store.folder()
    run = await command.run(
        [sys.executable, "-m", "tests.benchmarks.archive_predecessor", str(month), folder],
        folder,
        SOULSEEK_RESEARCH_DATABASE_URL=dsn,
    )
    found = parquet.read_metadata(folder / f"searches_{month}.parquet").num_rows
    assert found == rows, f"the predecessor's file holds {found} searches of {rows}"
    return run


def _compared(ours: Sequence[Archived], theirs: Sequence[Run]) -> list[Figure]:
    whole = measure.median(WHOLE, [one.whole.seconds for one in ours], "s")
    work = measure.median("of that, from the seal to the drop", [one.work for one in ours], "s")
    bare = measure.median("bare COPY of the same month", [one.bare.seconds for one in ours], "s")
    before = measure.median("the predecessor's way to archive it", [one.seconds for one in theirs], "s")
    peak = Figure("peak memory of the archive", max(one.whole.megabytes for one in ours), "MB")
    return [
        whole,
        measure.at_most_times(work, work.value / bare.value, COPY_TIMES, f"at most {COPY_TIMES:g} bare COPYs"),
        bare,
        measure.at_least(before, before.value / whole.value, PREDECESSOR_TIMES, f"{PREDECESSOR_TIMES:g} times ours"),
        measure.at_most(peak, MEGABYTES),
        Figure("peak memory of the predecessor's way", max(one.megabytes for one in theirs), "MB"),
    ]


def _sizes(one: Archived, rows: int, unique: float) -> list[Figure]:
    share = Figure("queries of a day that are unique", unique, "%")
    table = Figure("the month as a table", one.table_size / rows, "bytes a search")
    file = Figure("the month as a file", one.file_size / rows, "bytes a search")
    columns = sorted(one.column_sizes.items(), key=lambda column: -column[1])
    smaller = f"aim: {SMALLER:g} times smaller than the table"
    return [
        dataclasses.replace(share, required=f"at least {UNIQUE_PERCENT:g} %", met=unique >= UNIQUE_PERCENT),
        table,
        measure.at_least(file, one.table_size / one.file_size, SMALLER, smaller),
        *(Figure(f"of that, {name}", size / rows, "bytes a search") for name, size in columns),
    ]


def _larger(one: Archived, times: int) -> list[Figure]:
    seconds = Figure(f"from the seal to the drop, {times} times larger", one.work, "s")
    ratio = one.work / one.bare.seconds
    return [
        measure.at_most_times(seconds, ratio, COPY_TIMES, f"at most {COPY_TIMES:g} bare COPYs"),
        measure.at_most(Figure(f"peak memory, {times} times larger", one.whole.megabytes, "MB"), MEGABYTES),
    ]
