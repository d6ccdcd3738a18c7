"""An archive that retention keeps no longer is deleted; its row in the catalogue stays and says so."""

import asyncio
from collections.abc import Sequence

from soulseek_research.storage.archive import catalogue, layout, locks, recording
from soulseek_research.storage.archive.catalogue import Part, State
from soulseek_research.storage.archive.destination import Destination
from soulseek_research.storage.archive.errors import ArchiveBusyError, ArchiveError
from soulseek_research.storage.archive.settings import Format
from soulseek_research.storage.archive.work import Work


async def delete_archive(work: Work, part: Part) -> Part:
    """Delete the files of a part in every place.

    The catalogue says `expired` before the first file goes and lists its places until the last one has: so a deletion
    that was interrupted is seen, and nothing restores or adopts what is half gone.

    Args:
        work: The database and the destinations.
        part: An archived part without a table.

    Returns:
        The part as it is then.

    Raises:
        ArchiveError: It is not archived, or a file cannot be deleted.
        ArchiveBusyError: It has a table again, another run works on the month, or a place cannot be reached now.
        StorageError: The database cannot be asked.
    """
    async with locks.month_session(work.database, part.month) as connection:
        part = await catalogue.part(connection, part.month, part.number)
        if part.state not in (State.ARCHIVED, State.EXPIRED):
            raise ArchiveError(f"{part.name} is not archived but {part.state}: nothing of it was deleted")
        if part.table_name is not None:
            raise ArchiveBusyError(f"{part.name} was restored meanwhile: nothing of it was deleted, try again")
        destinations = everywhere(work, part)
        part = await catalogue.change(connection, part, state=State.EXPIRED)
        await asyncio.to_thread(delete_files, destinations, all_names(part))
        return await catalogue.change(connection, part, places=[])


def everywhere(work: Work, part: Part) -> list[Destination]:
    """The places that hold a part, and those where somebody may have put it besides.

    Raises:
        ArchiveError: One of them cannot be used.
    """
    others = [destination for destination in work.destinations if destination.url not in part.places]
    return [*recording.destinations_of(work.destinations, part), *others]


def delete_files(destinations: Sequence[Destination], names: Sequence[str]) -> None:
    """Delete archives in all places, each manifest before its file: what has none does not count. Blocks.

    Raises:
        ArchiveError: One cannot be deleted.
    """
    for destination in destinations:
        for name in names:
            destination.delete(layout.manifest_name(name))
            destination.delete(name)


def all_names(part: Part) -> list[str]:
    """What files of a part may be called: an attempt in another format may have left one."""
    return [
        layout.file_name(part.month, part.number, form, usernames=usernames)
        for form in Format
        for usernames in (True, False)
    ]
