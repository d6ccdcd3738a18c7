"""One run at a time works on a month: held by a connection, so that it is let go whatever ends the run."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import asyncpg
from asyncpg import exceptions

from soulseek_research.storage.archive.errors import ArchiveBusyError
from soulseek_research.storage.archive.month import Month
from soulseek_research.storage.database import Role
from soulseek_research.storage.location import Location

# Of the connection that holds a lock: a machine that vanishes is noticed within so long.
KEEPALIVE_SECONDS = 30
LEAVE_SECONDS = 2.0

_TRY = "SELECT pg_try_advisory_lock(hashtextextended('soulseek-research archive ' || $1, 0))"
_LEAVE = "SELECT pg_advisory_unlock(hashtextextended('soulseek-research archive ' || $1, 0))"


@contextlib.asynccontextmanager
async def month_locked(connection: asyncpg.Connection, month: Month) -> AsyncIterator[None]:
    """Keep other runs away from a month, for as long as this lasts and the connection lives.

    Raises:
        ArchiveBusyError: Another run has it.
    """
    if not await connection.fetchval(_TRY, str(month)):
        raise ArchiveBusyError(f"another run is working on {month}: try again when it has ended")
    try:
        yield
    finally:
        # A server that does not answer is left: the lock goes with the connection.
        with contextlib.suppress(exceptions.PostgresError, exceptions.InterfaceError, OSError, TimeoutError):
            async with asyncio.timeout(LEAVE_SECONDS):
                await connection.fetchval(_LEAVE, str(month))


@contextlib.asynccontextmanager
async def month_session(database: Location, month: Month) -> AsyncIterator[asyncpg.Connection]:
    """A connection of the archivist that has a month to itself, for statements that may take hours.

    Raises:
        ArchiveBusyError: Another run has the month.
        StorageError: As from `Location.session`.
    """
    async with (
        database.session(Role.ARCHIVIST, command_timeout=None, keepalive_seconds=KEEPALIVE_SECONDS) as connection,
        month_locked(connection, month),
    ):
        yield connection
