"""What tests of every layer share: one embedded PostgreSQL for the run, an empty database for each test."""

import asyncio
import contextlib
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from soulseek_research.storage import embedded_watcher, migrations
from soulseek_research.storage.embedded import EmbeddedServer
from tests import databases

STOP_SECONDS = 30.0


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    """A fresh folder that others may enter: pytest's own are private, and as root the server is another user.

    An embedded server anywhere in it has to stop by itself once its users have left.
    """
    folder = Path(tempfile.mkdtemp(prefix="sr-"))
    folder.chmod(0o711)
    try:
        yield folder
        locks = [*folder.rglob(embedded_watcher.WATCHER_LOCK), *folder.rglob(embedded_watcher.SERVER_LOCK)]
        deadline = time.monotonic() + STOP_SECONDS
        while any(map(embedded_watcher.is_locked, locks)):
            assert time.monotonic() < deadline, f"a server was left running in {folder}"
            time.sleep(0.02)
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """Where a test may have an EmbeddedServer of its own."""
    with open_folder() as folder:
        yield folder / "postgres"


@pytest.fixture(scope="session")
def server_dsn() -> Iterator[str]:
    """The DSN of the run's PostgreSQL, as its superuser, to a database that no test writes to."""
    with open_folder() as folder:
        server = EmbeddedServer(folder / "postgres")
        try:
            yield server.start()
        finally:
            server.release()


@pytest.fixture
async def empty_database(server_dsn: str) -> AsyncIterator[str]:
    """The DSN of a database of the test's own, as the superuser that owns it."""
    async with databases.fresh(server_dsn) as dsn:
        yield dsn


@pytest.fixture(scope="session")
def template(server_dsn: str) -> Iterator[str]:
    """Name of a migrated database that others are copied from: a tenth of a second instead of a migration a test."""
    # A loop of its own for the whole session's sake: the loops of the tests come and go.
    with asyncio.Runner() as runner:
        fresh = databases.fresh(server_dsn)
        dsn = runner.run(fresh.__aenter__())
        runner.run(_migrate(dsn))
        yield databases.name_of(dsn)
        runner.run(fresh.__aexit__(None, None, None))


@pytest.fixture
async def database(server_dsn: str, template: str) -> AsyncIterator[str]:
    """DSN, as the owner and superuser, of a migrated database of the test's own."""
    async with databases.fresh(server_dsn, f"TEMPLATE {template}") as dsn:
        async with databases.connected(dsn) as connection:
            # A copy is another database; only a backup that is restored stays who it was.
            await connection.execute("UPDATE database_identity SET database_id = gen_random_uuid()")
        yield dsn


async def _migrate(dsn: str) -> None:
    async with databases.connected(dsn) as connection:
        await migrations.migrate(connection)
