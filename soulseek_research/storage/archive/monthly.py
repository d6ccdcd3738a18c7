"""A month from its partition to a proven file, all steps in order. Each is safe to repeat; so is the whole."""

from soulseek_research.storage.archive import deleting, exporting, recording, retention, sealing, verifying
from soulseek_research.storage.archive.catalogue import Part
from soulseek_research.storage.archive.month import Month
from soulseek_research.storage.archive.work import Work
from soulseek_research.storage.database import Role


async def archive_month(work: Work, month: Month, *, keep: bool = False) -> list[Part]:
    """Archive a month that is ready, and drop its table when retention says so.

    Args:
        work: The database, the destinations and who is told.
        month: A finished one: see `sealing.waiting_for`.
        keep: Leave the table whatever retention says.

    Returns:
        The parts that were worked on; an empty list when nothing was left to do.

    Raises:
        ArchiveError: A step failed; what is done stays done.
    """
    parts = await sealing.seal(work, month)
    return [await archive_part(work, part, keep=keep) for part in parts]


async def archive_part(work: Work, part: Part, *, keep: bool) -> Part:
    """As `archive_month`, for one part that is sealed."""
    part = await exporting.export(work, part)
    part = await verifying.verify(work, part)
    part = await recording.record(work, part)
    if keep or not await may_drop(work, part.month):
        return part
    return await deleting.delete(work, part)


async def may_drop(work: Work, month: Month) -> bool:
    """Whether retention lets the table of a month go."""
    async with work.database.session(Role.ARCHIVIST) as connection:
        return retention.droppable(month, await retention.policy(connection))
