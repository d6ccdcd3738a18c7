"""A month comes back: each part's file is proven, loaded into a table behind `searches_all`, and compared with it."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator, Sequence

import asyncpg
import pyarrow as pa
from asyncpg import exceptions

from soulseek_research.storage.archive import (
    catalogue,
    copies,
    copy_binary,
    formats,
    locks,
    overlap,
    progress,
    verifying,
)
from soulseek_research.storage.archive.catalogue import Part, State
from soulseek_research.storage.archive.checksum import CHECKSUM_VERSION, Measured
from soulseek_research.storage.archive.destination import Destination
from soulseek_research.storage.archive.errors import ArchiveBusyError, ArchiveError
from soulseek_research.storage.archive.month import Month
from soulseek_research.storage.archive.progress import Progress
from soulseek_research.storage.archive.rows import COLUMNS
from soulseek_research.storage.archive.work import Work
from soulseek_research.storage.errors import StorageError

_log = logging.getLogger(__name__)


async def restore(work: Work, month: Month) -> list[Part]:
    """Load all parts of a month that are only in files. A part is loaded whole or not at all.

    Parts that are there stay as they are, so that what was interrupted goes on when it is run again. Where one copy of
    a file is damaged or cannot be reached the next is taken, and the log says so. A restored part stays archived: it is
    never archived again.

    Args:
        work: The database and the destinations.
        month: Which.

    Returns:
        All parts of the month, as they are then.

    Raises:
        ArchiveError: The month is there already, or in no file that is sound; the line says what is wrong with each.
        ArchiveBusyError: Another run works on the month, or a copy cannot be reached now.
        StorageError: The database cannot be asked.
    """
    async with locks.month_session(work.database, month) as connection:
        found = await catalogue.parts(connection, month)
        _refuse_unless_in_files(month, found)
        failures: list[ArchiveError] = []
        for part in filter(_is_only_in_files, found):
            try:
                await _restore(work, connection, part)
            except ArchiveError as error:
                failures.append(error)
        _raise_any(failures)
        return await catalogue.parts(connection, month)


def _is_only_in_files(part: Part) -> bool:
    return part.state is State.ARCHIVED and part.table_name is None


def _refuse_unless_in_files(month: Month, found: Sequence[Part]) -> None:
    if any(map(_is_only_in_files, found)):
        return
    if not found:
        raise ArchiveError(
            f"no archive of {month} is known: `soulseek-research archives` lists those that are, "
            "`soulseek-research archives adopt` takes in files whose manifests are found"
        )
    tables = [part.table_name for part in found if part.table_name is not None]
    if tables:
        raise ArchiveError(f"{month} is in the database already: its searches are in {', '.join(tables)}")
    raise ArchiveError(f"{month} cannot be restored: retention has deleted its files")


async def _restore(work: Work, connection: asyncpg.Connection, part: Part) -> None:
    if not (part.checksum or "").startswith(f"{CHECKSUM_VERSION}:"):
        raise ArchiveError(
            f"{part.name} has a checksum that is not known here ({part.checksum}): upgrade this software"
        )

    def show(read: int) -> None:
        work.report(Progress("restore", 0, part.rows, read))

    failures: list[ArchiveError] = []
    for url in copies.urls(work, part):
        try:
            destination = await copies.proven(work, part, url, show)
            await Loading(work, connection, part, destination).run()
        except ArchiveError as error:
            failures.append(error)
            _log.warning("%s is not restored from %s: %s", part.name, url, error)
        else:
            return
    _raise_any(failures, f"{part.name} is not restored, no copy of its file being sound: ")
    raise ArchiveError(f"{part.name} is not restored: no copy of its file is known")


def _raise_any(failures: Sequence[ArchiveError], what: str = "") -> None:
    if failures:
        kind = ArchiveBusyError if any(isinstance(error, ArchiveBusyError) for error in failures) else ArchiveError
        raise kind(what + "; ".join(map(str, failures)))


class Loading:
    """One part on its way from a file into its table: read, measured and encoded in a thread beside the COPY."""

    def __init__(self, work: Work, connection: asyncpg.Connection, part: Part, destination: Destination) -> None:
        self._work = work
        self._connection = connection
        self._part = part
        self._destination = destination
        self._measured = Measured()
        self._read: list[memoryview] = []
        self._written = 0

    async def run(self) -> None:
        """Load it, compare, and put it behind `searches_all`, in one transaction."""
        connection, part = self._connection, self._part
        key = (part.month.first_day, part.number)
        with _explained(part):
            async with connection.transaction():
                table = await connection.fetchval("SELECT open_restored($1, $2)", *key)
                await self._load(table)
                await self._compare(table)
                await connection.execute("SELECT close_restored($1, $2)", *key)

    async def _load(self, table: str) -> None:
        show = progress.paced(self._work.report, "restore", self._part.rows)
        async with self._batches() as batches, overlap.beside() as reading:
            await reading.start(self._read_on, batches)
            while True:
                await reading.finish()
                pieces, self._read = self._read, []
                if not pieces:
                    break
                rows = self._measured.tally.rows
                await reading.start(self._read_on, batches)
                for piece in pieces:
                    await self._copy(table, piece)
                show(rows, self._written)
        self._work.report(Progress("restore", self._measured.tally.rows, self._part.rows, self._written))

    async def _copy(self, table: str, piece: memoryview) -> None:
        # A COPY of its own for each piece: asyncpg, told to send all in one, does not notice until the end that the
        # server has refused it, and never that the connection was lost while it waited to send. FREEZE, because
        # otherwise VACUUM would come and write the whole table once more.
        await self._connection.copy_to_table(
            table, schema_name="public", columns=COLUMNS, source=piece, format="binary", freeze=True
        )
        self._written += len(piece)

    def _read_on(self, batches: Iterator[pa.Table]) -> None:
        for batch in batches:
            if batch.num_rows:
                self._measured.add(batch)
                self._read = list(copy_binary.pieces(batch))
                return

    @contextlib.asynccontextmanager
    async def _batches(self) -> AsyncIterator[Iterator[pa.Table]]:
        part = self._part
        assert part.file_path is not None, "an archived part has a file"
        assert part.format is not None, "and a format"
        file = await asyncio.to_thread(self._destination.open, part.file_path)
        with contextlib.closing(file):
            yield formats.batches(file, part.format)

    async def _compare(self, table: str) -> None:
        """The file was right when it was archived, and its bytes are the same; so must be what came of them."""
        part, measured = self._part, self._measured
        assert part.tally is not None, "an archived part was counted"
        counted = await verifying.count_frozen(self._connection, table)
        differences = measured.tally.differences(part.tally) + counted.differences(part.tally)
        if measured.checksum_text != part.checksum:
            differences.append(f"checksum: {measured.checksum_text} and {part.checksum}")
        if differences:
            raise ArchiveError(
                f"{self._destination.url}/{part.file_path} does not hold what was archived ({'; '.join(differences)})"
            )


@contextlib.contextmanager
def _explained(part: Part) -> Iterator[None]:
    """What PostgreSQL refuses is told in a line for people."""
    try:
        yield
    except (exceptions.DataError, exceptions.IntegrityConstraintViolationError) as error:
        # Its detail quotes the row.
        raise ArchiveError(f"{part.file_path} holds what PostgreSQL does not take: {error.args[0]}") from None
    # These two are no fault of the file: another copy of it would not help.
    except (exceptions.ObjectNotInPrerequisiteStateError, exceptions.DuplicateTableError) as error:
        raise StorageError(f"{part.name} is not restored: {error}") from error
    except exceptions.DiskFullError as error:
        raise StorageError(f"{part.name} is not restored, the database's disk being full: make room there") from error
