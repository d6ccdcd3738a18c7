"""Databases for tests: each a fresh one on a server that is already there, gone when the test is over."""

import contextlib
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

import asyncpg


def named(dsn: str, database: str) -> str:
    """Return the DSN of another database of the same server."""
    return urlsplit(dsn)._replace(path=f"/{database}").geturl()


@contextlib.asynccontextmanager
async def connected(dsn: str, **settings: str) -> AsyncIterator[asyncpg.Connection]:
    """A plain connection, without the checks and the role that `storage.database` brings."""
    connection = await asyncpg.connect(dsn, server_settings={name: str(value) for name, value in settings.items()})
    try:
        yield connection
    finally:
        await connection.close()


@contextlib.asynccontextmanager
async def fresh(server_dsn: str, *options: str) -> AsyncIterator[str]:
    """Create a database with the given options of CREATE DATABASE, and drop it whoever is still connected."""
    name = f"test_{uuid.uuid4().hex[:16]}"
    async with connected(server_dsn) as connection:
        await connection.execute(f"CREATE DATABASE {name} {' '.join(options)}")
    try:
        yield named(server_dsn, name)
    finally:
        async with connected(server_dsn) as connection:
            await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextlib.asynccontextmanager
async def asking(server_dsn: str, login: str, password: str) -> AsyncIterator[None]:
    """Let the server ask a login for its password; most of the tests' logins it trusts."""
    async with connected(server_dsn) as connection:
        await connection.execute(f"ALTER ROLE {login} PASSWORD '{password}'")
        rules = Path(await connection.fetchval("SHOW hba_file"))
        with _changed(rules, f"local all {login} scram-sha-256\n"):
            await connection.execute("SELECT pg_reload_conf()")
            yield
        await connection.execute("SELECT pg_reload_conf()")


@contextlib.contextmanager
def _changed(file: Path, first_line: str) -> Iterator[None]:
    before = file.read_text()
    file.write_text(first_line + before)
    try:
        yield
    finally:
        file.write_text(before)


def as_user(dsn: str, user: str, password: str | None = None) -> str:
    """Return the DSN for another login."""
    parts = urlsplit(dsn)
    login = quote(user) if password is None else f"{quote(user)}:{quote(password)}"
    return parts._replace(netloc=f"{login}@{parts.netloc.rpartition('@')[2]}").geturl()


def name_of(dsn: str) -> str:
    """Return the name of the database."""
    return urlsplit(dsn).path.removeprefix("/")
