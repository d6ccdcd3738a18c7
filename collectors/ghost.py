"""Server processes that still hold our locks after we have lost their connection.

A network that goes silent leaves the server with a session that it believes alive, perhaps in the middle of our
transaction. Keepalives end it in time, but not where something in between (a NAT, a balancer) answers for us.
"""

import datetime as dt
import logging
from typing import NamedTuple

import asyncpg
from asyncpg import exceptions

logger = logging.getLogger(__name__)


class Backend(NamedTuple):
    """A server process; its start tells it from a later one of the same number."""

    pid: int
    started: dt.datetime


async def identify(connection: asyncpg.Connection) -> Backend | None:
    """The server process behind a connection; None where the server does not say."""
    row = await _as_login(connection, "SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()")
    return Backend(row["pid"], row["backend_start"]) if row is not None and row["backend_start"] is not None else None


async def end(connection: asyncpg.Connection, backend: Backend) -> bool:
    """Ends a server process of our own login, if it is still there; False when nothing was done."""
    try:
        row = await _as_login(
            connection,
            "SELECT pg_terminate_backend(pid) AS ended FROM pg_stat_activity WHERE pid = $1 AND backend_start = $2",
            *backend,
        )
    except exceptions.InsufficientPrivilegeError:
        return False
    if row is not None:
        logger.info("ended the database session %s, which outlived our connection to it", backend.pid)
    return row is not None and bool(row["ended"])


async def _as_login(connection: asyncpg.Connection, query: str, *arguments: object) -> asyncpg.Record | None:
    # Whoever has set a role sees nothing of the sessions of its own login.
    await connection.execute("SET ROLE NONE")
    try:
        row: asyncpg.Record | None = await connection.fetchrow(query, *arguments)
    finally:
        await connection.execute("RESET ROLE")
    return row
