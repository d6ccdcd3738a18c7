"""From the spool into PostgreSQL, exactly once, for as long as the collector lives; never in the way of listening."""

import asyncio
import contextlib
import logging
import random
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
from asyncpg import exceptions

from collectors import ghost, privacy
from collectors.assignment import Assignment, Bell, Pace, State
from collectors.backlog import Backlog
from collectors.claim import KEEPALIVE_SECONDS, LOCK_TIMEOUT, AlreadyClaimed, Claim, Connect, FencedOff, is_fenced
from collectors.clock import ClockReading
from collectors.drain import ClaimLost, Drain
from collectors.errors import CollectorError
from collectors.spool import SpoolError, SpoolReader
from soulseek_research.storage.errors import StorageError

__all__ = ["Pace", "State", "Writer"]

logger = logging.getLogger(__name__)

DEFAULT_PACE = Pace()
SESSION_SETTINGS = {
    "lock_timeout": LOCK_TIMEOUT,
    # A transaction that we cannot end any more, because the network went away, ends by itself.
    "idle_in_transaction_session_timeout": "15s",
    "idle_session_timeout": "0",
}
LEAVE_SECONDS = 2.0


class Writer:
    """Brings what is in the spool to the database.

    Runs in the collector's event loop; the spool is read in a thread of its own. Whatever happens to the database, it
    tries again; only when another collector has the client id does it give up.

    Args:
        connect: makes connections to the database, with no more rights than a collector needs.
        client_id: the collector's.
        spool_path: the spool's file, which somebody else holds and appends to.
        first_segment: the first segment of this process, or None when nobody appends: what stands before it comes
            from processes that have died.
        new_segment: makes the spool open another segment, for a new claim.
        status: what the collector says of itself, sent along with each batch.
        on_clock: is told how our clock stands against the database's.
        resend_all: also send what another database has acknowledged.
        pace: how fast.
    """

    def __init__(
        self,
        connect: Connect,
        client_id: str,
        spool_path: Path,
        *,
        first_segment: uuid.UUID | None,
        new_segment: Callable[[], Awaitable[object]],
        status: Callable[[], dict[str, Any]] = dict,
        on_clock: Callable[[ClockReading], object] = lambda _: None,
        resend_all: bool = False,
        pace: Pace = DEFAULT_PACE,
    ) -> None:
        self._connect = connect
        self._assignment = Assignment(
            client_id,
            first_segment,
            new_segment,
            status,
            on_clock,
            resend_all,
            pace,
            Backlog(spool_path, client_id),
            Bell(pace.batch_rows),
        )
        self._bell = self._assignment.bell
        self._claim: Claim | None = None
        self._ghosts: list[ghost.Backend] = []  # the sessions of connections that ended badly
        self._failures = 0
        self._work: asyncio.Task[None] | None = None

    @property
    def state(self) -> State:
        """How it fares."""
        return self._assignment.state

    def appended(self, searches: int) -> None:
        """Something was appended to the spool."""
        self._bell.appended(searches)

    async def run(self) -> None:
        """Writes until `close` is called.

        Raises:
            AlreadyClaimed: another collector has the client id.
            FencedOff: another collector has taken it over.
        """
        work = self._work = asyncio.create_task(self._serve())
        try:
            await asyncio.wait({work})
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            await self._leave()
        if not work.cancelled():
            work.result()

    async def close(self, drain_seconds: float) -> None:
        """Ends `run`, after bringing over what can be brought in time; for when nothing is appended any more."""
        self._bell.closing.set()
        self._bell.ring()
        if self._work is not None:
            await asyncio.wait({self._work}, timeout=drain_seconds)
            self._work.cancel()

    async def _serve(self) -> None:
        while True:
            try:
                await self._session()
            except AlreadyClaimed:
                raise
            except Exception as error:  # listening goes on whatever it is, and the spool keeps all
                if is_fenced(error):
                    raise FencedOff(self._assignment.client_id) from error
                self._note_failure(error)
            else:
                return
            if self._bell.closing.is_set():
                return
            await self._pause()

    async def _session(self) -> None:
        claim = await self._hold_claim()
        connections: dict[asyncpg.Connection, ghost.Backend | None] = {}

        async def connect() -> asyncpg.Connection:
            connection = await self._open()
            connections[connection] = None
            connections[connection] = await self._lay_ghosts(connection)
            return connection

        try:
            drain = Drain(connect, claim, self._assignment)
            await drain.begin()
            self._note_connected()
            await drain.run()
        except BaseException:
            for connection, backend in connections.items():
                connection.terminate()
                self._ghosts += [backend] if backend is not None else []
            raise
        for connection in connections:
            with contextlib.suppress(OSError, exceptions.PostgresError, exceptions.InterfaceError):
                await connection.close(timeout=LEAVE_SECONDS)

    async def _hold_claim(self) -> Claim:
        if self._claim is not None and not self._claim.is_lost:
            return self._claim
        previous = self._claim
        self._claim = await Claim.take(
            self._connect,
            self._assignment.client_id,
            patience_seconds=self._assignment.pace.patience_seconds,
            previous=previous,
            ghosts=self._ghosts,
        )
        self._claim.on_lost = self._bell.ring
        self._ghosts.clear()
        if previous is not None:
            await self._assignment.new_segment()
        return self._claim

    async def _open(self) -> asyncpg.Connection:
        return await self._connect(
            application_name=f"soulseek-research writer {self._assignment.client_id}",
            keepalive_seconds=KEEPALIVE_SECONDS,
            server_settings=SESSION_SETTINGS,
            command_timeout=self._assignment.pace.answer_seconds,
        )

    async def _lay_ghosts(self, connection: asyncpg.Connection) -> ghost.Backend | None:
        while self._ghosts:
            await ghost.end(connection, self._ghosts.pop())
        return await ghost.identify(connection)

    async def _pause(self) -> None:
        pace = self._assignment.pace
        with contextlib.suppress(SpoolError):
            self.state.backlog = await self._assignment.backlog.ask(SpoolReader.depth)
        longest = min(pace.last_retry_seconds, pace.first_retry_seconds * 2 ** min(self._failures, 20))
        self._failures += 1
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(longest * random.uniform(0.5, 1)):  # noqa: S311 - so that not all come at once
                await self._bell.closing.wait()

    async def _leave(self) -> None:
        if self._claim is not None:
            await self._claim.release()
        self._assignment.backlog.close()
        self.state.connected = False

    def _note_connected(self) -> None:
        state = self.state
        logger.info("writing to the database%s", "" if state.error is None else " again")
        state.connected, state.since, state.error = True, time.time(), None

    def _note_failure(self, error: Exception) -> None:
        logger.debug("the connection ended: %s at %s", privacy.describe(error), privacy.whereabouts(error))
        state, words = self.state, _in_words(error)
        if state.last_batch_at is not None and state.last_batch_at > state.since:
            self._failures = 0  # it worked for a while
        if state.connected or words != state.error:
            logger.warning("the database is away, searches wait in the spool: %s", words)
        if state.connected:
            state.connected, state.since = False, time.time()
        state.error = words


def _in_words(error: Exception) -> str:
    if isinstance(error, StorageError | CollectorError):
        return str(error)
    if isinstance(error, ClaimLost):
        return "the connection that holds the client id was lost"
    if isinstance(error, exceptions.PostgresError):
        # Only the first line: the next ones may quote what was to be stored.
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"[:200]
    if isinstance(error, TimeoutError):
        return "the database does not answer"
    if isinstance(error, OSError | exceptions.InterfaceError):
        return "the connection was lost"
    return f"unexpected: {type(error).__name__}"
