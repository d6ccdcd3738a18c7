"""What tests of every layer share: one embedded PostgreSQL for the run, an empty database for each test."""

import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from soulseek_research.storage.embedded import EmbeddedServer
from tests import databases


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    """A fresh folder that others may enter: pytest's own are private, and as root the server is another user."""
    folder = Path(tempfile.mkdtemp(prefix="sr-"))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """Where a test may have an EmbeddedServer of its own; it has to release it with `wait=True`."""
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
            server.release(wait=True)


@pytest.fixture
async def empty_database(server_dsn: str) -> AsyncIterator[str]:
    """The DSN of a database of the test's own, as the superuser that owns it."""
    async with databases.fresh(server_dsn) as dsn:
        yield dsn
