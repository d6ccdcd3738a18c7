"""A finished month leaves `searches`: detached in a moment, as soon as no collector has anything left to bring."""

import asyncio
import random
import time
from datetime import UTC, datetime, timedelta

import asyncpg
from asyncpg import exceptions

from soulseek_research.storage import queries
from soulseek_research.storage.archive import catalogue, locks
from soulseek_research.storage.archive.catalogue import Part, State
from soulseek_research.storage.archive.errors import ArchiveBusyError, ArchiveError
from soulseek_research.storage.archive.month import Month
from soulseek_research.storage.archive.work import Work

# A collector that has not committed its last searches of a month by then will bring them as another part.
PATIENCE = timedelta(days=7)
# While we wait for a lock on a frozen table, every reader of `searches_all` waits behind us: so long, and no longer.
# (`seal_month` sets its own.)
LOCK_TIMEOUT = "200ms"
TRY_SECONDS = 60.0
PAUSE_SECONDS = (0.5, 5.0)


async def due(connection: asyncpg.Connection, now: datetime | None = None) -> list[Month]:
    """Return the finished months of which something is left to seal, export, verify or record, in order."""
    this_month = Month.of(now or datetime.now(UTC))
    rows = await connection.fetch(queries.load("months_due"), this_month.first_day)
    return [Month.of(row["month"]) for row in rows]


async def waiting_for(connection: asyncpg.Connection, month: Month, now: datetime | None = None) -> str | None:
    """Return in words what a month is waiting for before it can be sealed; None when it is ready.

    It is ready when it is over and every active collector has committed what it heard in it, or seven days later.
    """
    now = now or datetime.now(UTC)
    if now < month.end:
        return f"{month} is not over"
    if now >= month.end + PATIENCE:
        return None
    behind = await connection.fetch(queries.load("collectors_behind"), month.end, PATIENCE)
    if not behind:
        return None
    names = ", ".join(
        f"{row['client_id']} (committed up to {row['until']:%Y-%m-%d %H:%M}Z)" if row["until"] else row["client_id"]
        for row in behind
    )
    return f"{month} waits, until {month.end + PATIENCE:%Y-%m-%d} at most, for what a collector still holds: {names}"


async def seal(work: Work, month: Month) -> list[Part]:
    """Detach what is there of a month, as a part of its own.

    Args:
        work: The database.
        month: One that is ready: see `waiting_for`.

    Returns:
        The parts of the month that are not archived yet, or whose table is still there to be dropped.

    Raises:
        ArchiveBusyError: Somebody holds a lock on it for longer than we wait; the line says who.
        ArchiveError: The month is not over.
    """
    async with locks.month_session(work.database, month) as connection:
        await _detach(connection, month)
        return [
            part
            for part in await catalogue.parts(connection, month)
            if part.state not in (State.ARCHIVED, State.EXPIRED) or (part.table_name and not part.restored_at)
        ]


async def _detach(connection: asyncpg.Connection, month: Month) -> None:
    try:
        await patiently(connection, "SELECT seal_month($1)", month.first_day)
    except exceptions.ObjectNotInPrerequisiteStateError as error:
        raise ArchiveError(f"{month} is not sealed: {error}") from None


async def patiently(connection: asyncpg.Connection, statement: str, *arguments: object) -> None:
    """Run a statement that needs a lock on what others use, each try in a short transaction of its own.

    Raises:
        ArchiveBusyError: No try got it within a minute; the line says who holds it.
    """
    gives_up_at = time.monotonic() + TRY_SECONDS
    while True:
        try:
            async with connection.transaction():
                await connection.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
                await connection.execute(statement, *arguments)
        except (exceptions.LockNotAvailableError, exceptions.DeadlockDetectedError) as error:
            if time.monotonic() >= gives_up_at:
                holders = await connection.fetchval(queries.load("lock_holders"))
                raise ArchiveBusyError(
                    f"somebody has held a lock on the searches for {TRY_SECONDS:.0f} s ({holders or 'many in turn'}): "
                    "end that transaction, or try again later"
                ) from error
            await asyncio.sleep(random.uniform(*PAUSE_SECONDS))  # noqa: S311 - so that two who wait do not meet again
        else:
            return
