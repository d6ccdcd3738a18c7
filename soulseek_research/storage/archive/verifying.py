"""Each file is read back, and compared with what was streamed and with what PostgreSQL counts by itself."""

import asyncio
import time
from datetime import UTC, datetime

import asyncpg

from soulseek_research.storage import queries
from soulseek_research.storage.archive import catalogue, fingerprint, formats, locks, recording
from soulseek_research.storage.archive.catalogue import Part, State
from soulseek_research.storage.archive.checksum import Measured
from soulseek_research.storage.archive.destination import Destination
from soulseek_research.storage.archive.errors import ArchiveBusyError, ArchiveError
from soulseek_research.storage.archive.fingerprint import Seen
from soulseek_research.storage.archive.progress import Progress
from soulseek_research.storage.archive.tally import Tally
from soulseek_research.storage.archive.work import Work


async def verify(work: Work, part: Part) -> Part:
    """Prove that the file of a part holds what its table holds, in every place.

    Args:
        work: The database and the destinations.
        part: What `exporting.export` returned.

    Returns:
        The part as it is then: `verified` or further.

    Raises:
        ArchiveError: A file differs. The part is `sealed` again, and the next run writes it anew.
        StorageError: The database cannot be asked.
    """
    async with locks.month_session(work.database, part.month) as connection:
        part = await catalogue.part(connection, part.month, part.number)
        if part.state is State.SEALED:
            raise ArchiveError(f"{part.name} has no file yet: export it first")
        if part.state is not State.EXPORTED:
            return part
        began = time.monotonic()
        problem = await _difference(work, connection, part)
        if problem is not None:
            await catalogue.change(connection, part, state=State.SEALED)
            raise ArchiveError(f"{part.name} was not archived, and stays in the database: {problem}")
        assert part.tally is not None
        return await catalogue.change(
            connection,
            part,
            state=State.VERIFIED,
            verified_at=datetime.now(UTC),
            first_timestamp=_moment(part.tally.first_timestamp),
            last_timestamp=_moment(part.tally.last_timestamp),
            seconds=part.seconds + time.monotonic() - began,
        )


async def count_frozen(connection: asyncpg.Connection, table_name: str) -> Tally:
    """Return what PostgreSQL counts of a frozen table."""
    row = await connection.fetchrow(queries.load("tally").format(table=table_name), timeout=None)
    assert row is not None
    return Tally.from_json({name: None if value is None else int(value) for name, value in row.items()})


def measure(destination: Destination, part: Part, seen: Seen = lambda _: None) -> Measured:
    """Read a part's file in one place from its first row to its last. Blocks.

    Args:
        destination: The place.
        part: Whose file, format and SHA-256.
        seen: Told how many rows have been read so far; what it raises ends the reading.

    Raises:
        ArchiveError: It cannot be read, or is not the file whose SHA-256 the catalogue has.
    """
    assert part.file_path is not None
    assert part.format is not None
    digest = fingerprint.sha256(destination, part.file_path, lambda _: seen(0))
    if digest != part.sha256:
        raise ArchiveError(f"its SHA-256 is {digest}, and {part.sha256} was written")
    measured = Measured()
    with destination.open(part.file_path) as file:
        for table in formats.batches(file, part.format):
            measured.add(table)
            seen(measured.tally.rows)
    return measured


async def _difference(work: Work, connection: asyncpg.Connection, part: Part) -> str | None:
    """In what a file differs from the stream or the table; None when they agree."""
    assert part.table_name is not None
    assert part.tally is not None
    counting = asyncio.create_task(count_frozen(connection, part.table_name))
    try:
        for destination in recording.destinations_of(work.destinations, part):
            differences = await _from_the_stream(work, part, destination)
            if differences:
                return f"{destination.url}/{part.file_path} differs from what was sent: {', '.join(differences)}"
        differences = part.tally.differences(await counting)
        return f"the file differs from the table: {', '.join(differences)}" if differences else None
    finally:
        counting.cancel()
        await asyncio.wait([counting])


async def _from_the_stream(work: Work, part: Part, destination: Destination) -> list[str]:
    assert part.tally is not None

    def show(rows: int) -> None:
        work.report(Progress("verify", rows, part.rows, 0))

    try:
        measured = await fingerprint.beside(lambda seen: measure(destination, part, seen), show)
    except ArchiveBusyError:
        raise
    except ArchiveError as error:
        return [str(error)]
    differences = measured.tally.differences(part.tally)
    if measured.checksum_text != part.checksum:
        differences.append(f"checksum: {measured.checksum_text} and {part.checksum}")
    return differences


def _moment(milliseconds: int | None) -> datetime | None:
    return None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC)
