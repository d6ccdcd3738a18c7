"""An archive that retention keeps no longer is deleted; its row in the catalogue stays and says so."""

import asyncio
import dataclasses
from collections.abc import Sequence

from soulseek_research.storage.archive import catalogue, layout, locks, recording
from soulseek_research.storage.archive.catalogue import Part, State
from soulseek_research.storage.archive.destination import Destination
from soulseek_research.storage.archive.errors import ArchiveBusyError, ArchiveError
from soulseek_research.storage.archive.manifest import Manifest
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
        await asyncio.to_thread(delete_files, destinations, part, layout.all_names(part.month, part.number))
        return await catalogue.change(connection, part, places=[])


def everywhere(work: Work, part: Part) -> list[Destination]:
    """The places that hold a part, and those where somebody may have put it besides.

    Raises:
        ArchiveError: One of them cannot be used.
    """
    others = [destination for destination in work.destinations if destination.url not in part.places]
    return [*recording.destinations_of(work.destinations, part), *others]


def delete_files(destinations: Sequence[Destination], part: Part, names: Sequence[str]) -> None:
    """Delete archives of a part in all places, each manifest before its file: what has none does not count. Blocks.

    Raises:
        ArchiveError: One cannot be deleted, or is of another database.
    """
    for destination in destinations:
        for name in names:
            found = recording.read_manifest(destination, name)
            if found is not None and not _same_searches(part, found):
                raise ArchiveError(
                    f"{destination.url}/{name} holds other searches than {part.name} of this database, and was not "
                    "deleted: move it away, or archive to a place of its own"
                )
            destination.delete(layout.manifest_name(name))
            destination.delete(name)


def _same_searches(part: Part, found: Manifest) -> bool:
    """Whether an archive holds those of a part, with or without their usernames."""
    assert part.tally is not None, "it was archived"
    return dataclasses.replace(found.tally, username_bytes=0) == dataclasses.replace(part.tally, username_bytes=0)
