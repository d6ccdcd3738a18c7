"""A second copy of a month in a table of its own, by which is judged whether anything was lost or changed.

It is made and compared by SQL, and files are read with pyarrow: nothing of ours has a hand in it.
"""

import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import asyncpg
import pyarrow as pa
from pyarrow import csv, parquet

from soulseek_research.storage.archive.month import Month

Row = tuple[Any, ...]

COLUMNS = ("id", "timestamp", "ticket", "source", "flags", "client_id", "username", "query")
# Any difference in any column of any row shows in the sum, whatever the order of the rows.
SIGNATURE = "SELECT count(*), sum(hashtextextended(t::text, 0)) FROM ({rows}) t"
LATE = """
    WITH late AS (
        INSERT INTO searches (timestamp, ticket, source, flags, client_id, username, query)
        SELECT * FROM unnest($1::timestamptz[], $2::bigint[], $3::smallint[], $4::smallint[],
                             $5::text[], $6::text[], $7::text[])
        RETURNING *
    )
    INSERT INTO witness SELECT * FROM late
"""


async def watch(connection: asyncpg.Connection, month: Month) -> None:
    """Begin, with what the database holds of the month now."""
    await connection.execute(f"CREATE TABLE witness AS {here(month)}")


async def insert(connection: asyncpg.Connection, month: Month, rows: Sequence[Row]) -> None:
    """Store searches of the month in `searches` and here, in one transaction; a partition that is gone is made."""
    while True:
        try:
            await connection.execute(LATE, *map(list, zip(*rows, strict=True)))
        except asyncpg.CheckViolationError:  # there is no partition for them
            await connection.execute("SELECT ensure_partition($1)", month.first_day)
        else:
            return


async def assert_nothing_lost(connection: asyncpg.Connection, month: Month, archive: Path) -> None:
    """Every search is, value for value, in the database or in a whole file whose SHA-256 the catalogue knows.

    Nobody may be at work on the month.
    """
    async with connection.transaction(isolation="repeatable_read"):
        await connection.execute("CREATE TEMPORARY TABLE from_files (LIKE searches) ON COMMIT DROP")
        for part in await connection.fetch("SELECT * FROM archives WHERE month = $1", month.first_day):
            if part["table_name"] is None:
                assert part["state"] == "archived", f"neither table nor archive: {dict(part)}"
                assert part["record_count"] == await _load(connection, verified(archive, part))
        assert_no_half_file(archive)
        found = f"{here(month)} UNION ALL SELECT * FROM from_files"
        there, wanted = [await _signature(connection, rows) for rows in (found, "TABLE witness")]
        assert there == wanted, f"rows and sum are {there}, not {wanted}"


async def assert_restored(connection: asyncpg.Connection, month: Month) -> None:
    """The database holds exactly the month, each search once and value for value."""
    for more, less in ((here(month), "TABLE witness"), ("TABLE witness", here(month))):
        found = await connection.fetch(f"({more}) EXCEPT ALL ({less}) LIMIT 3")
        assert not found, f"{more} has what is not in {less}: {[dict(row) for row in found]}"


def verified(archive: Path, part: asyncpg.Record) -> Path:
    """The file of a part whose table is gone: its bytes and its manifest are as the catalogue says."""
    path = archive / str(part["file_path"])
    with path.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == part["sha256"]
    manifest = json.loads(path.with_name(f"{path.name}.manifest.json").read_text())
    assert part["sha256"] in manifest.values()
    return path


def assert_no_half_file(archive: Path) -> None:
    """What bears a final name is whole, whether the catalogue knows it or not."""
    for path in archive.rglob("searches_*.parquet"):
        parquet.ParquetFile(path)
    for path in archive.rglob("searches_*.json"):
        json.loads(path.read_text())
        assert path.with_name(path.name.removesuffix(".manifest.json")).exists(), "a manifest without its file"


def here(month: Month) -> str:
    """The query of what the database holds of the month."""
    columns = ", ".join(COLUMNS)
    return (
        f"SELECT {columns} FROM searches_all WHERE timestamp >= '{month.start.isoformat()}' "
        f"AND timestamp < '{month.end.isoformat()}'"
    )


async def _load(connection: asyncpg.Connection, path: Path) -> int:
    table: pa.Table = parquet.ParquetFile(path).read(columns=list(COLUMNS))
    file = io.BytesIO()
    # Null is nothing, an empty query is "".
    csv.write_csv(table, file, csv.WriteOptions(include_header=False, quoting_style="needed"))
    file.seek(0)
    await connection.copy_to_table("from_files", source=file, columns=COLUMNS, format="csv")
    return int(table.num_rows)


async def _signature(connection: asyncpg.Connection, rows: str) -> Row:
    return tuple(await connection.fetchrow(SIGNATURE.format(rows=rows)))
