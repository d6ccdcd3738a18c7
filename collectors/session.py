"""One session: a fresh client's life, from connecting to the one reason for which it ends.

aioslsk's own reconnecting is not used: after a refused or unanswered login it can be connected, without a session and
without a reader, for ever. A new client is the one state that is known to be sound.
"""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import logging
import re
import time
from collections.abc import Callable
from typing import Final

from aioslsk.events import ConnectionStateChangedEvent, KickedEvent
from aioslsk.exceptions import (
    AioSlskException,
    AuthenticationError,
    ConnectionFailedError,
    ListeningConnectionFailedError,
)
from aioslsk.network.connection import CloseReason, ConnectionState, ServerConnection

from collectors import coverage, privacy
from collectors.client import Ears, ListeningClient, Vantage

_log = logging.getLogger(__name__)
# The server's reasons are single words; what is none is not repeated.
_REASON = re.compile(r"[A-Z]{1,32}")
_FIRST: Final = 10  # before any of aioslsk's listeners, which may wait


class Ending(enum.Enum):
    """Why a session ended."""

    SERVER_CLOSED = "server closed the connection"
    CONNECTION_LOST = "connection lost"
    KICKED = "kicked"
    REFUSED = "login refused"
    LOGIN_TIMED_OUT = "login not answered"
    CANNOT_CONNECT = "cannot connect"
    CANNOT_LISTEN = "cannot open the listening port"
    STARVED = coverage.STARVED
    RENEWED = "renewed"
    FAILED = "failed"
    STOPPED = coverage.STOPPED


class State(enum.Enum):
    """What a collector is doing, as status and logs show it."""

    CONNECTING = "connecting"
    LOGGED_IN = "logged in"
    LISTENING = "listening"
    WAITING = "waiting"
    STOPPED = "stopped"


OnState = Callable[[State, str], None]
"""Called with each change of state and a detail for people, which names nobody."""


@dataclasses.dataclass(frozen=True)
class Ended:
    """The end of a session.

    Attributes:
        ending: why.
        detail: more of it: the server's reason, or the type of an exception.
        listened_seconds: from the first believed search to the last.
    """

    ending: Ending
    detail: str = ""
    listened_seconds: float = 0.0

    def __str__(self) -> str:
        return f"{self.ending.value} ({self.detail})" if self.detail else self.ending.value


@dataclasses.dataclass(frozen=True)
class Terms:
    """How long a session may take for what, in seconds.

    Attributes:
        connect_seconds: until the server has accepted the connection.
        login_seconds: until the login is answered; an account that was kicked gets no answer at all.
        silence_seconds: without a single believed search: an account can be taken off the server's list while the
            connection stands, and a half-open connection looks the same.
        session_seconds: until a client is replaced by a fresh one, because aioslsk's grow over months.
        close_seconds: until closing gently is given up.
    """

    connect_seconds: float = 30.0
    login_seconds: float = 30.0
    silence_seconds: float = 120.0
    session_seconds: float = 7 * 86400.0
    close_seconds: float = 15.0


async def listen(vantage: Vantage, ears: Ears, *, terms: Terms, on_state: OnState) -> Ended:
    """Listens with a fresh client until something ends it; cancelling it is how it is stopped.

    Returns:
        Why it ended. All of its connections and tasks are gone then, also when it was cancelled.
    """
    return await _Session(vantage, ears, terms, on_state).live()


class _Session:
    def __init__(self, vantage: Vantage, ears: Ears, terms: Terms, on_state: OnState) -> None:
        self._terms = terms
        self._on_state = on_state
        self._first_heard_at: float | None = None
        self._ending: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self._client = ListeningClient(vantage, ears, self._on_place)
        # The bus holds its listeners weakly; these live as long as the session.
        self._client.events.register(KickedEvent, self._on_kicked, priority=_FIRST)
        self._client.events.register(ConnectionStateChangedEvent, self._on_connection, priority=_FIRST)

    async def live(self) -> Ended:
        ended = Ended(Ending.STOPPED)
        try:
            ended = await self._connect() or await self._log_in() or await self._listen()
        except Exception as error:  # noqa: BLE001 - whatever it was, a fresh client is the answer
            _log.error("The session failed: %s at %s", privacy.describe(error), privacy.whereabouts(error))
            ended = Ended(Ending.FAILED, privacy.describe(error))
        finally:
            try:
                await self._client.network.leave()
            finally:
                self._client.distributed_network.leave(ended.ending.value)
                await self._close()
        heard_at = self._client.distributed_network.heard_at
        if self._first_heard_at is None or heard_at is None:
            return ended
        return dataclasses.replace(ended, listened_seconds=heard_at - self._first_heard_at)

    async def _connect(self) -> Ended | None:
        try:
            async with asyncio.timeout(self._terms.connect_seconds):
                await self._client.start()
        except ListeningConnectionFailedError:
            return Ended(Ending.CANNOT_LISTEN)
        except TimeoutError as error:
            return Ended(Ending.CANNOT_CONNECT, privacy.describe(error))
        except ConnectionFailedError as error:
            return Ended(Ending.CANNOT_CONNECT, privacy.describe(error.__cause__ or error))
        return None

    async def _log_in(self) -> Ended | None:
        try:
            async with asyncio.timeout(self._terms.login_seconds):
                await self._client.login()
        except TimeoutError:
            return Ended(Ending.LOGIN_TIMED_OUT)
        except AuthenticationError as error:
            known = _REASON.fullmatch(error.reason)
            return Ended(Ending.REFUSED, error.reason if known else "")
        except AioSlskException as error:
            ending = self._ending.result() if self._ending.done() else Ending.CONNECTION_LOST
            return Ended(ending, f"during login: {privacy.describe(error)}")
        return None

    async def _listen(self) -> Ended:
        tree = self._client.distributed_network
        began = time.monotonic()
        self._on_state(State.LOGGED_IN, "looking for a place in the tree")
        while not self._ending.done():
            silent_at = max(began, tree.heard_at or began) + self._terms.silence_seconds
            old_at = began + self._terms.session_seconds
            left = min(silent_at, old_at) - time.monotonic()
            if left <= 0:
                return Ended(Ending.STARVED if silent_at <= old_at else Ending.RENEWED)
            await asyncio.wait((self._ending,), timeout=left)
        return Ended(self._ending.result())

    async def _close(self) -> None:
        try:
            async with asyncio.timeout(self._terms.close_seconds):
                await self._client.stop()
        except Exception as error:  # noqa: BLE001 - it is gone in any case, and its text may hold names
            _log.warning("A session did not close cleanly: %s", privacy.describe(error))

    def _on_place(self, place: tuple[coverage.Role, int] | None) -> None:
        if place is None:
            self._on_state(State.LOGGED_IN, "the parent is lost, looking for another")
            return
        if self._first_heard_at is None:
            self._first_heard_at = time.monotonic()
        role, level = place
        self._on_state(State.LISTENING, role if role == "addressed" else f"{role} at level {level}")

    async def _on_kicked(self, _event: KickedEvent) -> None:
        self._end(Ending.KICKED)

    async def _on_connection(self, event: ConnectionStateChangedEvent) -> None:
        if event.state is ConnectionState.CLOSING and isinstance(event.connection, ServerConnection):
            self._end(Ending.SERVER_CLOSED if event.close_reason is CloseReason.EOF else Ending.CONNECTION_LOST)

    def _end(self, ending: Ending) -> None:
        if not self._ending.done():
            self._ending.set_result(ending)
