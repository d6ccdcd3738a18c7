"""Months that are over, in a database of a test's own: stored, archived, and looked at through `searches_all`."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg

from soulseek_research.storage.archive import exporting, progress, recording, sealing, verifying
from soulseek_research.storage.archive import work as works
from soulseek_research.storage.archive.catalogue import Part
from soulseek_research.storage.archive.month import Month
from soulseek_research.storage.archive.rows import COLUMNS
from soulseek_research.storage.archive.settings import ArchiveSettings, Format
from soulseek_research.storage.archive.work import Work
from soulseek_research.storage.location import Location
from tests import databases

MONTH = Month.of(datetime.now(UTC)).plus(-2)
LATER_MONTH = MONTH.plus(1)

Row = tuple[Any, ...]


def work(
    dsn: str, *places: Path | str, form: Format = Format.PARQUET, report: progress.Report = progress.nobody
) -> Work:
    """What every step is given, with archives in these places."""
    settings = ArchiveSettings(archive=",".join(map(str, places)), archive_format=form)
    return works.work(Location(dsn), settings, report)


def searches(count: int, month: Month = MONTH, first_id: int = 1) -> list[Row]:
    """Some searches of a month, one a second."""
    return [
        (
            first_id + number,
            month.start + timedelta(seconds=number, milliseconds=number % 1000),
            number * 7919 if number % 5 else None,
            1 + number % 4,
            number % 16,
            "eu",
            f"key.person{number % 17}",
            f'query {number} "quoted", \\N',
        )
        for number in range(count)
    ]


async def store(dsn: str, rows: Iterable[Row], month: Month = MONTH) -> None:
    """Put searches into the partition of their month, each under its own id."""
    async with databases.connected(dsn) as connection:
        await connection.execute("SELECT ensure_partition($1)", month.first_day)
        await connection.copy_records_to_table("searches", records=rows, columns=COLUMNS)


async def archive(work: Work, month: Month = MONTH) -> list[Part]:
    """Seal, export, verify and record what is there of a month; its tables stay."""
    parts = await sealing.seal(work, month)
    return [await _archive(work, part) for part in parts]


async def _archive(work: Work, part: Part) -> Part:
    for step in (exporting.export, verifying.verify, recording.record):
        part = await step(work, part)
    return part


async def held(dsn: str, month: Month = MONTH) -> list[Row]:
    """What the database holds of a month, value for value."""
    async with databases.connected(dsn) as connection:
        rows = await connection.fetch(
            f"SELECT {', '.join(COLUMNS)} FROM searches_all WHERE timestamp >= $1 AND timestamp < $2 ORDER BY id",
            month.start,
            month.end,
        )
    return [tuple(row) for row in rows]


async def tables(connection: asyncpg.Connection) -> Sequence[str]:
    """The frozen tables that there are, whether they stand behind `searches_all` or not."""
    rows = await connection.fetch(
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND relname ~ '^(sealed|restored)_' ORDER BY relname"
    )
    return [row["relname"] for row in rows]
