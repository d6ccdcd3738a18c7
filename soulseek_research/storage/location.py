"""Where the database is: at the URL of the settings, or in the embedded PostgreSQL, which is started when needed."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
from asyncpg import exceptions

from soulseek_research.storage import database, failures, migrations
from soulseek_research.storage.database import DatabaseAwayError, Role
from soulseek_research.storage.embedded import EmbeddedServer
from soulseek_research.storage.errors import StorageError
from soulseek_research.storage.settings import StorageSettings

COMMAND_SECONDS = 120.0
LEAVE_SECONDS = 2.0


class Location:
    """A database that can be connected to for as long as this is held."""

    def __init__(self, dsn: str, server: EmbeddedServer | None = None) -> None:
        self._dsn = dsn
        self._server = server

    @property
    def dsn(self) -> str:
        """How to reach it. It may hold a password: it is not for logs."""
        return self._dsn

    @property
    def embedded(self) -> bool:
        """Whether it is the embedded one, which nobody else administers."""
        return self._server is not None

    async def connect(self, role: Role | None = None, **options: Any) -> asyncpg.Connection:
        """Connect with the rights of `role`, or with those of the login; the options are those of `database.connect`.

        Raises:
            DatabaseAwayError: It cannot be reached now.
            StorageError: It cannot be used until somebody changes something.
        """
        try:
            return await database.connect(self._dsn, role=role, **options)
        except DatabaseAwayError:
            if self._server is None:
                raise
        # Whoever killed it, nobody but us will start it again.
        self._dsn = await asyncio.to_thread(self._server.start)
        return await database.connect(self._dsn, role=role, **options)

    @contextlib.asynccontextmanager
    async def session(
        self, role: Role | None = None, *, command_timeout: float | None = COMMAND_SECONDS, **options: Any
    ) -> AsyncIterator[asyncpg.Connection]:
        """A connection for one command: whatever goes wrong with it is one line for people.

        Args:
            role: Whose rights are enough.
            command_timeout: Seconds to wait for any single statement; None waits for ever.
            options: Those of `database.connect`.

        Raises:
            StorageError: As from `connect`; or the login lacks a right, or the connection was lost.
        """
        connection = await self.connect(role, command_timeout=command_timeout, **options)
        try:
            yield connection
        except exceptions.InsufficientPrivilegeError as error:
            rights = role.value if role else "the database's owner"
            raise StorageError(f"this login has not the rights of {rights}, which this needs: {error}") from error
        except (OSError, exceptions.PostgresConnectionError, exceptions.InterfaceError) as error:
            raise failures.explain(error, "the database") from error
        finally:
            await _leave(connection)

    async def prepare(self) -> None:
        """Bring the embedded database up to date; of any other, check that its owner has done so.

        Raises:
            StorageError: It cannot be used; the line says what its owner has to do.
        """
        async with self.session() as connection:
            if self.embedded:
                await migrations.migrate(connection)
            else:
                await migrations.check(connection)


async def _leave(connection: asyncpg.Connection) -> None:
    """Close it; a server that does not answer is left without a goodbye."""
    try:
        await connection.close(timeout=LEAVE_SECONDS)
    except (OSError, TimeoutError, exceptions.PostgresError, exceptions.InterfaceError):
        connection.terminate()


@contextlib.contextmanager
def found(settings: StorageSettings) -> Iterator[Location]:
    """Find the database of the settings; the embedded one is started, and let go at the end. Blocks.

    Raises:
        StorageError: The settings are wrong, or the embedded PostgreSQL does not start.
    """
    dsn = settings.dsn()
    if dsn is not None:
        yield Location(dsn)
        return
    server = EmbeddedServer(settings.data_dir / "postgres")
    try:
        yield Location(server.start(), server)
    finally:
        # As the first process of a container we would take a server down with us that is still writing.
        server.release(wait=True)
