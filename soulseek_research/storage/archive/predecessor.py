"""Searches that the predecessor of this software kept, taken over month by month, ready to be archived.

A month is loaded in one transaction, together with its row in `imports`: an import that was interrupted goes on with
the months that it lacks.
"""

import asyncio
import contextlib
import re
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Collection, Sequence
from dataclasses import dataclass

import asyncpg

from soulseek_research.storage.archive import locks
from soulseek_research.storage.archive.errors import ArchiveError
from soulseek_research.storage.archive.month import Month
from soulseek_research.storage.archive.predecessor_rows import Clean, Row, Taker
from soulseek_research.storage.archive.progress import Progress, Report, nobody
from soulseek_research.storage.database import Role
from soulseek_research.storage.location import Location

KEY_ID = "sha256"
COLUMNS = ("timestamp", "ticket", "source", "flags", "client_id", "username", "query")
CHUNK_ROWS = 20_000

_KEY_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")


@dataclass(frozen=True)
class ImportedMonth:
    """What became of one month."""

    month: Month
    part: int | None  # None when no row of it could be taken
    rows: int
    already: bool  # an earlier run had imported it


@dataclass(frozen=True)
class Imported:
    """What became of all."""

    source: str
    months: Sequence[ImportedMonth]
    left_behind: dict[str, int]  # rows that this run could not take, by reason
    not_over: dict[Month, int]  # rows of a month that still goes on: to be imported when it is over


class Source(ABC):
    """Where the predecessor's searches are.

    Attributes:
        name: Tells this source from all others, for ever, and holds no secret.
    """

    name: str

    @abstractmethod
    async def months(self, taker: Taker, done: Collection[Month], report: Report) -> dict[Month, int]:
        """Return how many rows there are of each month, those of `done` and the running one too.

        A source may have to take the rows for that, except those of `done`.

        Raises:
            ArchiveError: It cannot be read.
        """

    @abstractmethod
    def rows(self, month: Month, taker: Taker) -> AsyncGenerator[list[Row]]:
        """Yield the rows of a month that `months` named, some thousands at a time.

        Raises:
            ArchiveError: It cannot be read.
        """


async def import_searches(
    database: Location,
    source: Source,
    *,
    clean: Clean,
    key_id: str = KEY_ID,
    source_name: str | None = None,
    report: Report = nobody,
) -> Imported:
    """Import every finished month of a source that has not been.

    Args:
        database: Where to, brought up to date.
        source: Where from.
        clean: Makes a query storable, as a collector would.
        key_id: What stands before each pseudonym.
        source_name: What the source is known by, if not by its own name. Who gives one says that these are other
            searches than what was imported by another name.
        report: Told how far it has come.

    Raises:
        ArchiveError: The key id cannot be used; months were imported from elsewhere; the source cannot be read; or
            another run is working on a month. What was imported until then stays.
    """
    name = source_name or source.name
    async with database.session(Role.ARCHIVIST) as connection:
        await _check_key(connection, key_id, name)
        done = await _done(connection, name)
        now = await connection.fetchval("SELECT now()")
    taker = Taker(key_id, clean, now)
    months = await source.months(taker, done, report)
    not_over = {month: rows for month, rows in months.items() if month.end > now}
    wanted = sorted(set(months) - set(done) - set(not_over))
    if source_name is None:
        await _check_overlap(database, name, key_id, wanted)
    loading = _Loading(database, source, name, key_id, taker, report, sum(months[month] for month in wanted))
    loaded = [await loading.load(month) for month in wanted]
    earlier = [one for month, one in done.items() if month in months]
    return Imported(
        source=name,
        months=sorted([*earlier, *loaded], key=lambda one: one.month),
        left_behind=dict(taker.left_behind),
        not_over=not_over,
    )


class _NothingTaken(Exception):  # noqa: N818 - it undoes a transaction, and is no error
    """No row of a month can be taken."""


class _Loading:
    """The loading of months, one after the other."""

    def __init__(
        self, database: Location, source: Source, name: str, key_id: str, taker: Taker, report: Report, expected: int
    ) -> None:
        self._database = database
        self._source = source
        self._name = name
        self._key_id = key_id
        self._taker = taker
        self._report = report
        self._expected = expected
        self._rows = 0

    async def load(self, month: Month) -> ImportedMonth:
        """Load one month, whole or not at all."""
        async with locks.month_session(self._database, month) as connection:
            earlier = (await _done(connection, self._name)).get(month)
            if earlier is not None:
                return earlier  # by somebody else, since this run began
            try:
                async with connection.transaction():
                    part, rows = await self._fill(connection, month)
            except _NothingTaken:
                return ImportedMonth(month, None, 0, already=False)
            return ImportedMonth(month, part, rows, already=False)

    async def _fill(self, connection: asyncpg.Connection, month: Month) -> tuple[int, int]:
        part: int = await connection.fetchval("SELECT open_imported($1)", month.first_day)
        table = await connection.fetchval(
            "SELECT table_name FROM archives WHERE month = $1 AND part = $2", month.first_day, part
        )
        rows = 0
        async with (
            contextlib.aclosing(self._source.rows(month, self._taker)) as found,
            contextlib.aclosing(_ahead(found)) as chunks,
        ):
            async for chunk in chunks:
                await connection.copy_records_to_table(table, records=chunk, columns=COLUMNS)
                rows += len(chunk)
                self._rows += len(chunk)
                self._report(Progress("import", self._rows, self._expected, 0))
        if not rows:
            raise _NothingTaken
        await connection.execute(
            "SELECT close_imported($1, $2, $3, $4, $5)", month.first_day, part, self._name, self._key_id, rows
        )
        return part, rows


async def _ahead(chunks: AsyncGenerator[list[Row]]) -> AsyncGenerator[list[Row]]:
    """The same, the next one being fetched while one is used."""
    following = asyncio.ensure_future(anext(chunks, None))
    try:
        while (chunk := await following) is not None:
            following = asyncio.ensure_future(anext(chunks, None))
            yield chunk
    finally:
        following.cancel()
        await asyncio.wait([following])


async def _done(connection: asyncpg.Connection, name: str) -> dict[Month, ImportedMonth]:
    rows = await connection.fetch("SELECT month, part, rows FROM imports WHERE source = $1", name)
    months = [ImportedMonth(Month.of(row["month"]), row["part"], row["rows"], already=True) for row in rows]
    return {one.month: one for one in months}


async def _check_key(connection: asyncpg.Connection, key_id: str, name: str) -> None:
    if not _KEY_ID.fullmatch(key_id):
        raise ArchiveError(f"{key_id!r} cannot be a key id: use up to 32 of a-z, 0-9, - and _")
    if await connection.fetchval("SELECT EXISTS (SELECT FROM key_epochs WHERE key_id = $1)", key_id):
        raise ArchiveError(
            f'"{key_id}" is a key of this software, under which the same person has another pseudonym: give another '
            "--key-id"
        )
    other = await connection.fetchval(
        "SELECT key_id FROM imports WHERE source = $1 AND key_id <> $2 LIMIT 1", name, key_id
    )
    if other is not None:
        raise ArchiveError(
            f'months of this source were imported under the key id "{other}": go on with --key-id {other}, '
            "or the same person would be two"
        )


async def _check_overlap(database: Location, name: str, key_id: str, wanted: Sequence[Month]) -> None:
    """Refuse what is probably the same data again: under another name, or from before the database was lost."""
    days = [month.first_day for month in wanted]
    async with database.session(Role.ARCHIVIST) as connection:
        found = await connection.fetchrow(
            "SELECT source, month FROM imports WHERE source <> $1 AND month = ANY ($2) ORDER BY month, source LIMIT 1",
            name,
            days,
        )
        adopted = await connection.fetchval(
            "SELECT min(month) FROM archives LEFT JOIN imports USING (month, part) "
            "WHERE imports.source IS NULL AND month = ANY ($1) AND $2 = ANY (archives.key_ids)",
            days,
            key_id,
        )
    if found is not None:
        raise ArchiveError(
            f'{Month.of(found["month"])} was imported from "{found["source"]}" already: if this is the same data, give '
            "that as --source-name; if these are other searches, give --source-name a name of its own"
        )
    if adopted is not None:
        raise ArchiveError(
            f'{Month.of(adopted)} holds searches under the key id "{key_id}" already, in an archive that was adopted: '
            "if these are other searches, give --source-name a name of its own"
        )
