"""Archives without Prefect: what the commands do, with progress on standard error."""

import asyncio
import dataclasses
from collections.abc import Sequence
from typing import Any

from flows import months, progress_bars
from flows.complaints import complaint
from soulseek_research.storage.archive import adopting, catalogue, deleting, monthly, restoring, work
from soulseek_research.storage.archive.catalogue import Part
from soulseek_research.storage.archive.errors import ArchiveError
from soulseek_research.storage.archive.month import Month
from soulseek_research.storage.archive.settings import ArchiveSettings
from soulseek_research.storage.database import Role
from soulseek_research.storage.location import Location


@dataclasses.dataclass
class Result:
    """How it went: the parts that were worked on; the months that wait, and those that failed, each with the reason."""

    parts: list[Part] = dataclasses.field(default_factory=list)
    waiting: dict[Month, str] = dataclasses.field(default_factory=dict)
    failed: dict[Month, str] = dataclasses.field(default_factory=dict)


async def plan(database: Location, asked: Sequence[Month] | None, *, keep: bool) -> list[dict[str, Any]]:
    """Say what `archive` would do, a line a part."""
    await database.prepare()
    candidates = await months.candidates(database, asked, keep=keep)
    async with database.session(Role.ARCHIVIST) as connection:
        return [line for one in candidates for line in await months.plan(connection, one, keep=keep)]


async def archive(
    database: Location, settings: ArchiveSettings, asked: Sequence[Month] | None, *, keep: bool
) -> Result:
    """Archive the months that are asked for, or all that are due; one that fails stops no other."""
    await database.prepare()
    everything = await asyncio.to_thread(work.work, database, settings)
    result = Result()
    with progress_bars.shown() as display:
        for one in await months.candidates(database, asked, keep=keep):
            if one.waiting is not None:
                (result.waiting if asked is None else result.failed)[one.month] = one.waiting
                continue
            watched = dataclasses.replace(everything, report=display.of(str(one.month)))
            try:
                result.parts += await monthly.archive_month(watched, one.month, keep=keep)
            except Exception as error:  # noqa: BLE001 - whatever it is
                result.failed[one.month] = complaint(error)
    return result


async def restore(database: Location, settings: ArchiveSettings, month: Month) -> list[Part]:
    """Load an archived month back."""
    await database.prepare()
    with progress_bars.shown() as display:
        watched = await asyncio.to_thread(work.work, database, settings, display.of(str(month)))
        return await restoring.restore(watched, month)


async def drop_restored(database: Location, settings: ArchiveSettings, month: Month) -> list[Part]:
    """Drop what was restored of a month, once its files are found to be sound.

    Raises:
        ArchiveError: Nothing of it is restored; or a file is not sound.
    """
    await database.prepare()
    async with database.session(Role.ARCHIVIST) as connection:
        known = await catalogue.parts(connection, month)
    restored = [part for part in known if part.table_name is not None and part.restored_at is not None]
    if not restored:
        raise ArchiveError(f"{month} is not restored: see `soulseek-research archives`")
    with progress_bars.shown() as display:
        watched = await asyncio.to_thread(work.work, database, settings, display.of(str(month)))
        return [await deleting.drop_restored(watched, part) for part in restored]


async def known_parts(database: Location) -> list[Part]:
    """Return all parts that the catalogue knows."""
    await database.prepare()
    async with database.session(Role.ANALYST) as connection:
        return await catalogue.parts(connection)


async def check_all(database: Location, settings: ArchiveSettings) -> list[tuple[Part, str, str | None]]:
    """Read every file again: each part in each place, with what is wrong with it there."""
    await database.prepare()
    with progress_bars.shown() as display:
        watched = await asyncio.to_thread(work.work, database, settings, display.of("archives"))
        return await adopting.check_all(watched, deep=True)


async def adopt(database: Location, settings: ArchiveSettings) -> adopting.Adoption:
    """Bring into the catalogue what stands in the manifests of all places."""
    await database.prepare()
    with progress_bars.shown() as display:
        watched = await asyncio.to_thread(work.work, database, settings, display.of("archives"))
        return await adopting.adopt(watched)
