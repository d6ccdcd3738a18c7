"""The claim to a client id: one collector each, so that no search is written twice and coverage is told by one.

A session lock on a connection of its own says who may; the fencing token, checked in every batch's transaction, holds
even where the lock does not (a server that failed over, a connection pooler in between).
"""

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Callable, Sequence
from typing import Protocol, Self

import asyncpg
from asyncpg import exceptions

from collectors import ghost
from collectors.errors import CollectorError
from soulseek_research.storage import migrations

logger = logging.getLogger(__name__)

KEEPALIVE_SECONDS = 24
"""A dead host's lock is free after about so long."""
PING_SECONDS = 5.0
PING_TIMEOUT_SECONDS = 10.0
ANSWER_SECONDS = 20.0
GHOST_SECONDS = 2.0 * KEEPALIVE_SECONDS
LOCK_TIMEOUT = "10s"
RETRY_SECONDS = 0.25
LEAVE_SECONDS = 2.0


class Connect(Protocol):
    """Makes a connection to the database, as `storage.database.connect` does once it knows the DSN and the role."""

    async def __call__(
        self,
        *,
        application_name: str,
        keepalive_seconds: int,
        server_settings: dict[str, str],
        command_timeout: float | None = None,
    ) -> asyncpg.Connection:
        """Connects, or raises StorageError."""
        ...


class AlreadyClaimed(CollectorError):  # noqa: N818 - it is a state of the world
    """Another collector listens with this client id."""

    def __init__(self, client_id: str) -> None:
        super().__init__(
            f'another collector already uses the client id "{client_id}" on this database: '
            "stop it, or start this one with another --client-id"
        )


class FencedOff(CollectorError):  # noqa: N818
    """Another collector has taken over this client id."""

    def __init__(self, client_id: str) -> None:
        super().__init__(
            f'another collector has taken over the client id "{client_id}": this one stops, and what it still '
            "holds in its spool is sent when it is started again"
        )


def is_fenced(error: BaseException) -> bool:
    """Whether this is the database's word that another has claimed the client id since."""
    return isinstance(error, exceptions.ObjectNotInPrerequisiteStateError) and "has been claimed" in str(error)


def lock_key(client_id: str) -> int:
    """The client id as the number that PostgreSQL locks: the same on every host and in every version."""
    digest = hashlib.blake2b(client_id.encode(), digest_size=8, person=b"sr claim").digest()
    return int.from_bytes(digest, "big", signed=True)


class Claim:
    """A held client id. Made by `take`.

    Attributes:
        token: the fencing token; larger than that of any earlier claim.
    """

    def __init__(
        self, connection: asyncpg.Connection, client_id: str, token: int, backend: ghost.Backend | None
    ) -> None:
        self.client_id = client_id
        self.token = token
        self.is_lost = False
        self.on_lost: Callable[[], None] = lambda: None
        self._connection = connection
        self._backend = backend
        self._pinging: asyncio.Task[None] | None = None

    @classmethod
    async def take(
        cls,
        connect: Connect,
        client_id: str,
        *,
        patience_seconds: float = 0.0,
        previous: "Claim | None" = None,
        ghosts: Sequence[ghost.Backend] = (),
    ) -> Self:
        """Takes the client id.

        Args:
            connect: makes the connection that the claim lives on.
            client_id: what to claim.
            patience_seconds: how long to wait for another holder to leave.
            previous: our own earlier claim whose connection was lost. Its session may outlive it on the server; it is
                ended there, or waited for, as long as nobody else has claimed the client id since.
            ghosts: other lost sessions of ours, which may stand in the way in the middle of a transaction.

        Raises:
            AlreadyClaimed: another collector holds it.
            StorageError: the database cannot be used, or lacks a migration.
        """
        connection = await connect(
            application_name=f"soulseek-research claim {client_id}",
            keepalive_seconds=KEEPALIVE_SECONDS,
            server_settings={"lock_timeout": LOCK_TIMEOUT, "idle_session_timeout": "0"},
            command_timeout=ANSWER_SECONDS,
        )
        try:
            await migrations.check(connection)
            for backend in ghosts:
                await ghost.end(connection, backend)
            await _lock(connection, client_id, patience_seconds, previous)
            token = await connection.fetchval("SELECT claim_collector($1)", client_id)
            claim = cls(connection, client_id, token, await ghost.identify(connection))
        except BaseException:
            connection.terminate()
            raise
        connection.add_termination_listener(claim._lose)
        claim._pinging = asyncio.create_task(claim._ping())
        return claim

    async def release(self) -> None:
        """Gives the client id back."""
        connection, pinging = self._connection, self._pinging
        self.on_lost = lambda: None
        if pinging is not None:
            pinging.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await pinging
        self.is_lost = True
        with contextlib.suppress(Exception):
            await connection.close(timeout=LEAVE_SECONDS)
        connection.terminate()

    async def held_by_ghost(self, connection: asyncpg.Connection) -> bool:
        """Whether nobody has claimed the client id since this claim: then whoever holds its lock is its own ghost."""
        try:
            await connection.execute("SELECT check_fence($1, $2)", self.client_id, self.token)
        except exceptions.ObjectNotInPrerequisiteStateError:
            return False
        if self._backend is not None:
            await ghost.end(connection, self._backend)
        return True

    async def _ping(self) -> None:
        """Notices a server that is gone without a word."""
        while True:
            await asyncio.sleep(PING_SECONDS)
            try:
                async with asyncio.timeout(PING_TIMEOUT_SECONDS):
                    await self._connection.execute("SELECT")
            except (OSError, TimeoutError, exceptions.PostgresError, exceptions.InterfaceError):
                self._connection.terminate()
                self._lose()
                return

    def _lose(self, _connection: object = None) -> None:
        if not self.is_lost:
            self.is_lost = True
            self.on_lost()


async def _lock(
    connection: asyncpg.Connection, client_id: str, patience_seconds: float, previous: Claim | None
) -> None:
    clock = asyncio.get_running_loop().time
    started = clock()
    told = False
    while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", lock_key(client_id)):
        waited = clock() - started
        if previous is not None and await previous.held_by_ghost(connection):
            if waited > GHOST_SECONDS:
                raise AlreadyClaimed(client_id)
        elif waited >= patience_seconds:
            raise AlreadyClaimed(client_id)
        if not told:
            told = True
            logger.info('the client id "%s" is held by another session: waiting for it to end', client_id)
        await asyncio.sleep(RETRY_SECONDS)
