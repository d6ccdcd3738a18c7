"""The month that is archived: as our collectors leave it, and the same searches as the predecessor's did."""

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg

from soulseek_research.storage import migrations, postgres_binaries
from soulseek_research.storage.archive.month import Month
from tests import databases, months
from tests.benchmarks import archive_predecessor
from tests.benchmarks.store import Store


@contextlib.asynccontextmanager
async def ours(store: Store, month: Month, rows: int, block: months.Block) -> AsyncIterator[str]:
    """The DSN of a database with so many searches, which retention keeps no longer than until they are archived."""
    async with store.database() as dsn:
        async with databases.connected(dsn) as connection:
            await migrations.migrate(connection)
            await connection.execute("UPDATE retention SET queryable_months = 0")
            await months.fill(connection, month, rows, block)
            await _settle(connection)
        yield dsn


@contextlib.asynccontextmanager
async def theirs(store: Store, dsn: str) -> AsyncIterator[str]:
    """The DSN of a database with the searches of another, in the predecessor's table."""
    async with store.database() as other:
        async with databases.connected(other) as connection:
            await connection.execute(archive_predecessor.TABLE)
            await asyncio.to_thread(_copy, dsn, other)
            await _settle(connection)
        yield other


def psql() -> Path:
    """The program that comes with the embedded server."""
    return postgres_binaries.find() / "bin/psql"


def partition(month: Month) -> str:
    """The table of the month as long as it is not sealed."""
    return f"searches_{month.year:04}_{month.number:02}"


def _copy(dsn: str, other: str) -> None:
    rows: list[str | Path] = [psql(), "-Xqc", f"COPY ({archive_predecessor.ROWS}) TO STDOUT", dsn]
    target = f"searches ({', '.join(archive_predecessor.COLUMNS)})"
    with subprocess.Popen(rows, stdout=subprocess.PIPE) as source:
        subprocess.run([psql(), "-Xqc", f"COPY {target} FROM STDIN", other], stdin=source.stdout, check=True)


async def _settle(connection: asyncpg.Connection) -> None:
    """As autovacuum leaves a table in the month in which it is filled; else the first to read would pay for it."""
    await connection.execute("VACUUM (ANALYZE) searches")
