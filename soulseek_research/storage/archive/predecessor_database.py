"""The predecessor's searches as they lie in its PostgreSQL: one table, not partitioned, perhaps without an index."""

import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterator
from pathlib import Path

import asyncpg
from asyncpg import exceptions
from pydantic import Field, SecretStr

from soulseek_research.storage import address, failures, queries
from soulseek_research.storage.archive.errors import ArchiveError
from soulseek_research.storage.archive.month import Month
from soulseek_research.storage.archive.predecessor import CHUNK_ROWS, Source
from soulseek_research.storage.archive.predecessor_rows import EARLIEST, NO_TIME, TO_COME, TOO_EARLY, Row, Taker
from soulseek_research.storage.archive.progress import Report
from soulseek_research.storage.database import CONNECT_SECONDS
from soulseek_research.storage.settings import StorageSettings

TABLE = "searches"
NEEDED = ("client_id", "timestamp", "username", "query")

_COLUMNS = '"timestamp", client_id, username, query'
_REASONS = {"missing": NO_TIME, "early": TOO_EARLY, "late": TO_COME}
_FAILURES = (exceptions.PostgresError, exceptions.InterfaceError, OSError)


class PredecessorSettings(StorageSettings):
    """Where the predecessor's database is; its URL holds a password, so that no flag takes it."""

    from_url: SecretStr | None = Field(None, description="The predecessor's PostgreSQL, as a URL.")
    from_url_file: Path | None = Field(
        None,
        description="A file that holds the URL of the predecessor's PostgreSQL; "
        "SOULSEEK_RESEARCH_FROM_URL in the environment may be that URL itself.",
    )

    def from_dsn(self) -> str | None:
        """Return the URL of the predecessor's database; None when none was given.

        Raises:
            StorageError: It is given twice, or its file cannot be read or is empty.
        """
        return StorageSettings.model_construct(
            database_url=self.from_url, database_url_file=self.from_url_file, data_dir=self.data_dir
        ).dsn()


@contextlib.asynccontextmanager
async def opened(dsn: str, table: str = TABLE) -> AsyncIterator[Source]:
    """Open the predecessor's database, for reading and nothing else.

    Args:
        dsn: Its URL.
        table: What the table is called, with its schema where that is not on the search path.

    Raises:
        DatabaseAwayError: It cannot be reached now.
        ArchiveError: There is no such table, or it is not the predecessor's.
        StorageError: The URL or the login cannot be used.
    """
    where = address.parse(dsn)
    try:
        connection = await asyncpg.connect(
            where.dsn,
            timeout=where.timeout or CONNECT_SECONDS,
            server_settings={"TimeZone": "UTC", "default_transaction_read_only": "on", "application_name": "import"},
        )
    except (*_FAILURES, exceptions.InternalClientError, ValueError) as error:
        raise failures.explain(error, where.place) from None
    try:
        with _explained(where.place):
            quoted = await _check(connection, where.place, table)
        yield DatabaseSource(connection, where.place, table, quoted)
    finally:
        connection.terminate()  # nothing is under way that needs a goodbye


class DatabaseSource(Source):
    """One table of one database."""

    def __init__(self, connection: asyncpg.Connection, place: str, table: str, quoted: str) -> None:
        """Take a connection and a table that were looked at."""
        self.name = f"{place}, table {table}"
        self._connection = connection
        self._place = place
        self._table = quoted

    async def months(self, taker: Taker, done: Collection[Month], report: Report) -> dict[Month, int]:  # noqa: ARG002
        """Count the rows of each month, which reads the table once."""
        query = queries.load("predecessor_months").replace("predecessor_table", self._table)
        with _explained(self._place):
            found = await self._connection.fetch(query, EARLIEST, taker.now)
        for row in found:
            if row["month"] is None:
                taker.left_behind[_REASONS[row["time"]]] += row["rows"]
        return {Month.of(row["month"]): row["rows"] for row in found if row["month"] is not None}

    async def rows(self, month: Month, taker: Taker) -> AsyncGenerator[list[Row]]:
        """Read a month through a cursor, as fast as it is taken."""
        query = f'SELECT {_COLUMNS} FROM {self._table} WHERE "timestamp" >= $1 AND "timestamp" < $2'  # noqa: S608
        with _explained(self._place):
            async with self._connection.transaction():
                cursor = await self._connection.cursor(query, month.start, month.end)
                while found := await cursor.fetch(CHUNK_ROWS):
                    taken = (taker.take(row[0], *(text or "" for text in row[1:])) for row in found)
                    yield [row for row in taken if row is not None]


async def _check(connection: asyncpg.Connection, place: str, table: str) -> str:
    """Return the table's name, quoted where it needs to be; raises ArchiveError for one that is not as it should be."""
    found = await connection.fetchrow(queries.load("predecessor_table"), table)
    if found is None:
        raise ArchiveError(f'{place} has no table "{table}": name the predecessor\'s with --table')
    if found["kind"] == "p":
        raise ArchiveError(
            f'the table "{table}" of {place} is partitioned, as this software makes it: '
            "give the URL of the predecessor's database, or name its table with --table"
        )
    columns = json.loads(found["columns"] or "{}")
    missing = [name for name in NEEDED if name not in columns]
    if missing:
        raise ArchiveError(f'the table "{table}" of {place} is not the predecessor\'s: it lacks {", ".join(missing)}')
    if columns["timestamp"] != "timestamp with time zone":
        raise ArchiveError(
            f'the column timestamp of the table "{table}" of {place} is a {columns["timestamp"]}, and '
            "nobody can tell in which time zone: make it timestamp with time zone there"
        )
    quoted: str = found["quoted"]
    return quoted


@contextlib.contextmanager
def _explained(place: str) -> Iterator[None]:
    """Whatever goes wrong with the predecessor's database is one line for people."""
    try:
        yield
    except exceptions.InsufficientPrivilegeError as error:
        raise ArchiveError(f"the login may not read the predecessor's table at {place}: {error}") from error
    except exceptions.InvalidNameError:
        raise ArchiveError("--table: write NAME or SCHEMA.NAME") from None
    except _FAILURES as error:
        raise failures.explain(error, place) from error
