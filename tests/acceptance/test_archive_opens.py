"""An archive opens with nothing of ours: the lines that the README shows, and what they have to find."""

import asyncio
import shutil
import subprocess
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyarrow import parquet

from soulseek_research.storage import postgres_binaries
from soulseek_research.storage.archive import monthly
from soulseek_research.storage.archive.settings import ArchiveSettings, Format
from soulseek_research.storage.archive.work import work
from soulseek_research.storage.location import Location
from tests import databases, months, witness

MONTH = months.finished()
ROWS = 3000
DECOMPRESS = {Format.CSV_ZST: "zstd", Format.CSV_GZ: "gzip"}

HOSTILE = (
    "",
    '\\N "quoted, phrase" \\.',
    "\\.",
    "\x01\t\r\n\x7f\x85\u2028\ufeff",
    "кино 東京 👩‍🎤 \u202eabc",
    "x" * 4096,
)


@pytest.fixture
async def month(database: str) -> str:
    """The DSN of a database with a month, and a copy of it in the table `witness`."""
    async with databases.connected(database) as connection:
        await months.fill(connection, MONTH, ROWS, months.block(ROWS, people=100))
        await witness.watch(connection, MONTH)
        for query in HOSTILE:
            row = (MONTH.start, None, 0, 15, 'late, "quoted"', "abcdefgh.AAAA", query)
            await witness.insert(connection, MONTH, [row])
    return database


async def archived(dsn: str, folder: Path, form: Format) -> Path:
    """The file that the month becomes."""
    settings = ArchiveSettings(_env_file=None, data_dir=folder, archive=str(folder), archive_format=form)
    parts = await monthly.archive_month(work(Location(dsn), settings), MONTH)
    assert [part.format for part in parts] == [form]
    return folder / str(parts[0].file_path)


async def test_with_duckdb(month: str, tmp_path: Path) -> None:
    path = await archived(month, tmp_path, Format.PARQUET)

    with duckdb.connect() as connection:
        rows = connection.execute(
            f"SELECT * REPLACE (epoch_ms(timestamp) AS timestamp) FROM '{path}' ORDER BY id"
        ).fetchall()

    assert rows == await wanted(month)


async def test_with_pyarrow(month: str, tmp_path: Path) -> None:
    path = await archived(month, tmp_path, Format.PARQUET)

    table: pa.Table = parquet.read_table(path).sort_by("id")

    milliseconds = pc.cast(table["timestamp"], pa.int64())
    table = table.set_column(1, "timestamp", milliseconds)
    assert list(zip(*(column.to_pylist() for column in table.columns), strict=True)) == await wanted(month)


@pytest.mark.parametrize("form", DECOMPRESS)
async def test_with_psql_alone(month: str, tmp_path: Path, form: Format) -> None:
    path = await archived(month, tmp_path, form)
    if shutil.which(DECOMPRESS[form]) is None:
        pytest.skip(f"{DECOMPRESS[form]} is not installed")

    script = f"""
        set -e
        psql() {{ {postgres_binaries.find()}/bin/psql -Xq "$@"; }}
        psql '{month}' -c "CREATE TABLE opened (LIKE searches)"
        {DECOMPRESS[form]} -dc {path} | psql '{month}' -c "\\copy opened FROM STDIN (FORMAT csv, HEADER)"
    """
    await asyncio.to_thread(subprocess.run, ["sh", "-c", script], check=True)

    async with databases.connected(month) as connection:
        assert await connection.fetchval("SELECT count(*) FROM opened") == await connection.fetchval(
            "SELECT count(*) FROM witness"
        )
        assert not await connection.fetch("TABLE opened EXCEPT ALL TABLE witness")


async def wanted(dsn: str) -> list[witness.Row]:
    """All rows by their id, times as milliseconds since 1970."""
    async with databases.connected(dsn) as connection:
        rows = await connection.fetch("""
            SELECT id, (extract(epoch FROM timestamp) * 1000)::bigint, ticket, source, flags, client_id, username, query
            FROM witness ORDER BY id
        """)
    return [tuple(row) for row in rows]
