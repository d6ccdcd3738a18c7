"""A frozen table goes, once every copy of its file has been read again and found right."""

import asyncpg
from asyncpg import exceptions

from soulseek_research.storage.archive import catalogue, copies, locks, sealing
from soulseek_research.storage.archive.catalogue import Part, State
from soulseek_research.storage.archive.errors import ArchiveError
from soulseek_research.storage.archive.progress import Progress
from soulseek_research.storage.archive.work import Work


async def delete(work: Work, part: Part) -> Part:
    """Drop the sealed table of an archived part.

    Every copy of the file, wherever the catalogue or the settings say that there is one, is read again from end to end
    before; nothing is dropped unless all are right and the table holds as many rows as they do. There is no DELETE and
    no VACUUM: it takes no time, whatever the size.

    Args:
        work: The database and the destinations.
        part: The part, as it was; what holds is what the catalogue says now.

    Returns:
        The part as it is then; unchanged when its table is gone already.

    Raises:
        ArchiveError: It is not archived, was restored, or a copy of its file is not as it was; the table stays.
        ArchiveBusyError: Another run works on the month, the table is in use, or a copy cannot be reached; it stays.
        StorageError: The database cannot be asked; run it again.
    """
    return await _drop(work, part, restored=False)


async def drop_restored(work: Work, part: Part) -> Part:
    """Drop the table that a part was restored to; otherwise as `delete`."""
    return await _drop(work, part, restored=True)


async def _drop(work: Work, part: Part, *, restored: bool) -> Part:
    async with locks.month_session(work.database, part.month) as connection:
        part = await catalogue.part(connection, part.month, part.number)
        if part.table_name is None:
            return part
        _refuse_unless_archived(part, restored=restored)
        await _check_rows(connection, part)
        await _check_copies(work, part)
        await _drop_table(connection, part)
        return await catalogue.part(connection, part.month, part.number)


def _refuse_unless_archived(part: Part, *, restored: bool) -> None:
    if part.state is not State.ARCHIVED:
        raise ArchiveError(f"{part.name} is not archived but {part.state}: its table {part.table_name} stays")
    if restored and part.restored_at is None:
        raise ArchiveError(f"{part.name} was not restored: its table {part.table_name} is for retention to drop")
    if part.restored_at is not None and not restored:
        raise ArchiveError(f"{part.name} was restored: its table stays until `soulseek-research restore --drop`")


async def _check_rows(connection: asyncpg.Connection, part: Part) -> None:
    rows = await connection.fetchval(f"SELECT count(*) FROM public.{part.table_name}")  # noqa: S608 - our own name
    if rows != part.rows:
        raise ArchiveError(
            f"the table {part.table_name} holds {rows} searches and its archive {part.rows}: nothing was dropped"
        )


async def _check_copies(work: Work, part: Part) -> None:
    urls = copies.urls(work, part)
    if not urls:
        raise ArchiveError(f"no copy of the archive of {part.name} is known: its table {part.table_name} stays")
    checked = 0

    def show(read: int) -> None:
        work.report(Progress("delete", 0, part.rows, checked + read))

    for url in urls:
        await copies.proven(work, part, url, show)
        checked += part.file_size or 0
    work.report(Progress("delete", part.rows or 0, part.rows, checked))


async def _drop_table(connection: asyncpg.Connection, part: Part) -> None:
    try:
        await sealing.patiently(connection, "SELECT drop_frozen($1, $2)", part.month.first_day, part.number)
    except (exceptions.ObjectNotInPrerequisiteStateError, exceptions.UndefinedTableError) as error:
        raise ArchiveError(f"the table {part.table_name} was not dropped: {error}") from error
