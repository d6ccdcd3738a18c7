import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator

import pytest

from soulseek_research.storage import migrations
from tests import databases, older_postgresql


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


@pytest.fixture
async def login(server_dsn: str) -> AsyncIterator[str]:
    """Name of a login without any right of its own."""
    name = f"login_{uuid.uuid4().hex[:16]}"
    async with databases.connected(server_dsn) as connection:
        await connection.execute(f"CREATE ROLE {name} LOGIN")
    yield name
    async with databases.connected(server_dsn) as connection:
        await connection.execute(f"DROP ROLE {name}")


@pytest.fixture(scope="session")
def old_server() -> Iterator[str]:
    """DSN of a PostgreSQL older than ours."""
    if not older_postgresql.INSTALLED:
        pytest.skip("no older PostgreSQL is installed here")
    with older_postgresql.server(older_postgresql.INSTALLED[0]) as dsn:
        yield dsn


async def _migrate(dsn: str) -> None:
    async with databases.connected(dsn) as connection:
        await migrations.migrate(connection)
