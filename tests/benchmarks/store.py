"""Where it is kept: fresh databases on an embedded PostgreSQL of this run, and what is in them."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg

from soulseek_research.storage import migrations
from soulseek_research.storage.embedded import EmbeddedServer
from tests import databases
from tests.conftest import open_folder

POLL_SECONDS = 0.2
# Fewer than a batch of the collector's may wait for its ten seconds.
BATCH_SEARCHES = 500


class Searches:
    """The table `searches` of one database."""

    def __init__(self, connection: asyncpg.Connection, dsn: str) -> None:
        self.dsn = dsn
        self._connection = connection

    async def count(self) -> int:
        """How many there are; none where there is no table yet."""
        with contextlib.suppress(asyncpg.UndefinedTableError):
            return int(await self._connection.fetchval("SELECT count(*) FROM searches"))
        return 0

    async def arrived(self, number: int, seconds: float = 120.0) -> int:
        """Waits until so many are there, but for fewer than a batch; returns how many are.

        Raises:
            TimeoutError: they are not.
        """
        async with asyncio.timeout(seconds):
            while (found := await self.count()) <= number - BATCH_SEARCHES:  # noqa: ASYNC110
                await asyncio.sleep(POLL_SECONDS)
        return found

    async def assert_each_once(self, first_ticket: int, number: int) -> None:
        """Exactly these are there: the feeder gives each search a ticket of its own."""
        found = await self._connection.fetchrow(
            "SELECT count(*), count(DISTINCT ticket), min(ticket), max(ticket) FROM searches"
        )
        wanted = number, number, first_ticket, first_ticket + number - 1
        assert found is not None
        assert tuple(found) == wanted, f"searches, tickets, first and last ticket are {tuple(found)}, not {wanted}"


class Store:
    """A running PostgreSQL and a folder beside it."""

    def __init__(self, dsn: str, folder: Path) -> None:
        self._dsn = dsn
        self._folder = folder

    @contextlib.asynccontextmanager
    async def searches(self, *, migrated: bool = True) -> AsyncIterator[Searches]:
        """The table of a fresh database."""
        async with self.database() as dsn, databases.connected(dsn) as connection:
            if migrated:
                await migrations.migrate(connection)
            yield Searches(connection, dsn)

    def database(self) -> contextlib.AbstractAsyncContextManager[str]:
        """The DSN of a fresh database."""
        return databases.fresh(self._dsn)

    @contextlib.asynccontextmanager
    async def copied(self, dsn: str) -> AsyncIterator[str]:
        """The DSN of a copy of a database to which nobody is connected."""
        async with databases.fresh(self._dsn, f"TEMPLATE {databases.name_of(dsn)} STRATEGY FILE_COPY") as copy:
            yield copy

    def folder(self) -> Path:
        """A new folder, gone with the store."""
        return Path(tempfile.mkdtemp(dir=self._folder))


@contextlib.contextmanager
def running() -> Iterator[Store]:
    """An embedded PostgreSQL of this run's own, with nothing left behind."""
    with open_folder() as folder:
        server = EmbeddedServer(folder / "postgres")
        try:
            dsn = server.start()
            yield Store(dsn, folder)
        finally:
            server.release(wait=True)
