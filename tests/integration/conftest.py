import uuid
from collections.abc import AsyncIterator, Iterator

import pytest

from tests import databases, older_postgresql


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
