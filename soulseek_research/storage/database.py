"""Connections to PostgreSQL: with no more rights than needed, and only where "committed" means "kept"."""

import enum
import socket
from collections.abc import Mapping
from typing import Any

import asyncpg
from asyncpg import exceptions

from soulseek_research.storage import failures, queries
from soulseek_research.storage.address import Address, parse, redact
from soulseek_research.storage.errors import StorageError
from soulseek_research.storage.failures import DatabaseAwayError

__all__ = ["DatabaseAwayError", "Role", "connect", "redact"]

CONNECT_SECONDS = 10.0
OLDEST_SERVER = 140000

_FAILURES = (
    exceptions.PostgresError,
    exceptions.InterfaceError,
    exceptions.InternalClientError,
    OSError,
    ValueError,
    LookupError,
)


class Role(enum.StrEnum):
    """Who somebody is in the database; what each may do stands in `sql/grants.sql`."""

    COLLECTOR = "soulseek_research_collector"
    ARCHIVIST = "soulseek_research_archivist"
    ANALYST = "soulseek_research_analyst"


async def connect(
    dsn: str,
    *,
    role: Role | None = None,
    application_name: str = "soulseek-research",
    timeout: float = CONNECT_SECONDS,  # noqa: ASYNC109 - asyncpg's own, which also ends a connection half made
    command_timeout: float | None = None,
    keepalive_seconds: int | None = None,
    server_settings: Mapping[str, str] | None = None,
) -> asyncpg.Connection:
    """Connect to the database.

    Args:
        dsn: A URL as libpq takes it, `sslmode` and its companions included.
        role: Whose rights are enough. Where the login is a member of that role it has these and no others, also after
            RESET; where it is not (or the server has no such role) it keeps its own.
        application_name: What `pg_stat_activity` calls this connection.
        timeout: Seconds to wait for the connection; `connect_timeout` in the URL goes before it.
        command_timeout: Seconds to wait for any single command; None waits for ever.
        keepalive_seconds: Both ends notice within about so long that the other is gone without a word.
        server_settings: Further settings of the session.

    Raises:
        DatabaseAwayError: It cannot be reached now.
        StorageError: It cannot be used until somebody changes something.
    """
    address = parse(dsn)
    settings = {"TimeZone": "UTC", "application_name": application_name, **(server_settings or {})}
    if keepalive_seconds is not None:
        settings |= _server_keepalive(keepalive_seconds)
    options: dict[str, Any] = {"timeout": address.timeout or timeout, "command_timeout": command_timeout}
    try:
        connection = await _connect_as(role, address.dsn, settings, options)
    except _FAILURES as error:
        raise failures.explain(error, address.place) from _without_secrets(error)
    try:
        await _check(connection, address, role, options["timeout"])
        if keepalive_seconds is not None:
            _keep_alive(connection, keepalive_seconds)
    except BaseException:
        connection.terminate()
        raise
    return connection


async def _connect_as(
    role: Role | None, dsn: str, settings: dict[str, str], options: dict[str, Any]
) -> asyncpg.Connection:
    connection: asyncpg.Connection
    if role is not None:
        try:
            # A role named at the start of the session is what RESET comes back to; SET ROLE would be undone by it.
            connection = await asyncpg.connect(dsn, server_settings={**settings, "role": role.value}, **options)
        except (exceptions.InsufficientPrivilegeError, exceptions.InvalidParameterValueError) as error:
            if f'"{role}"' not in str(error):
                raise
        else:
            return connection
    connection = await asyncpg.connect(dsn, server_settings=settings, **options)
    return connection


def _without_secrets(error: BaseException) -> BaseException | None:
    """Return the cause to show in a traceback: a server never repeats a password, a parser of URLs might."""
    return error if isinstance(error, exceptions.PostgresError | OSError) else None


async def _check(connection: asyncpg.Connection, address: Address, role: Role | None, seconds: float) -> None:
    try:
        found = await connection.fetchrow(queries.load("server"), timeout=seconds)
    except _FAILURES as error:
        raise failures.explain(error, address.place) from _without_secrets(error)
    assert found is not None
    objection = objection_to(found, role)
    if objection is not None:
        raise type(objection)(f"{address.place} {objection}")


def objection_to(server: Mapping[str, Any], role: Role | None) -> StorageError | None:
    """Return why this server does not do for that role, if it does not: see `sql/server.sql`."""
    if server["version_number"] < OLDEST_SERVER:
        return StorageError(f"is version {server['version']}, and 14 or newer is needed: upgrade it")
    if server["encoding"] != "UTF8":
        return StorageError(
            f"has the encoding {server['encoding']}, and searches come in all scripts: "
            "create a database with ENCODING 'UTF8' TEMPLATE template0"
        )
    if server["standby"] and role in (Role.COLLECTOR, Role.ARCHIVIST):
        return DatabaseAwayError("is a standby and takes no writes: give the address of the primary")
    if server["synchronous_commit"] == "off":
        return StorageError(
            "has synchronous_commit=off, so a crash there would lose searches that were called committed: "
            "set it to on (or local, remote_write, remote_apply) for this database and login"
        )
    if server["fsync"] == "off":
        return StorageError(
            "has fsync=off, so a crash there would lose searches that were called committed: set it to on"
        )
    return None


def _server_keepalive(seconds: int) -> dict[str, str]:
    probe = max(1, seconds // 4)
    return {
        "tcp_keepalives_idle": str(probe),
        "tcp_keepalives_interval": str(probe),
        "tcp_keepalives_count": "3",
        "tcp_user_timeout": str(seconds * 1000),
    }


def _keep_alive(connection: asyncpg.Connection, seconds: int) -> None:
    sock = connection._transport.get_extra_info("socket")  # noqa: SLF001 - asyncpg offers no other way to the socket
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    probe = max(1, seconds // 4)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", probe),
        ("TCP_KEEPINTVL", probe),
        ("TCP_KEEPCNT", 3),
        ("TCP_USER_TIMEOUT", seconds * 1000),
    ):
        if hasattr(socket, option):  # macOS has other names for some
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
