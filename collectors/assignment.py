"""What a writer has to do, and how it fares: shared by its connections, which come and go."""

import asyncio
import dataclasses
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from collectors.backlog import Backlog
from collectors.clock import ClockReading
from collectors.spool import Depth


@dataclasses.dataclass(frozen=True)
class Pace:
    """How the writer goes about it; tests go faster."""

    batch_rows: int = 500
    batch_seconds: float = 10.0
    backlog_rows: int = 20_000
    answer_seconds: float = 60.0
    clock_seconds: float = 60.0
    first_retry_seconds: float = 0.5
    last_retry_seconds: float = 30.0
    patience_seconds: float = 30.0  # a machine that was reset is back before the server has missed it


@dataclasses.dataclass
class State:
    """What the writer says of itself; times are Unix seconds.

    Attributes:
        since: when it became connected or disconnected.
        error: why it is not connected, in words that hold no secret.
        rows: searches stored since the start.
        dropped: searches that the database could not take, by reason; each is a recorded gap.
        backlog: what waited in the spool when it was last looked at.
    """

    connected: bool = False
    since: float = dataclasses.field(default_factory=time.time)
    error: str | None = None
    last_batch_at: float | None = None
    rows: int = 0
    dropped: dict[str, int] = dataclasses.field(default_factory=dict)
    backlog: Depth | None = None
    clock: ClockReading | None = None


class Bell:
    """Wakes the writer when there is something to do."""

    def __init__(self, enough: int) -> None:
        self._enough = enough
        self._waiting = 0
        self._rung = asyncio.Event()
        self.closing = asyncio.Event()

    def appended(self, searches: int) -> None:
        """So many searches more wait in the spool."""
        self._waiting += searches
        if self._waiting >= self._enough:
            self._rung.set()

    def taken(self, searches: int | None) -> None:
        """So many searches were read from the spool, or (None) there were no more, however many were expected."""
        self._waiting = 0 if searches is None else max(0, self._waiting - searches)
        if self._waiting < self._enough:
            self._rung.clear()

    def ring(self) -> None:
        """There is a reason to look up, whatever waits."""
        self._rung.set()

    async def wait(self, seconds: float) -> None:
        """Until enough searches wait, the bell is rung, the end is near, or the time is over."""
        if not self.closing.is_set():
            try:
                async with asyncio.timeout(seconds):
                    await self._rung.wait()
            except TimeoutError:
                pass


@dataclasses.dataclass
class Assignment:
    """Everything but the connection.

    Attributes:
        first_segment: the first of this process; None when nobody appends.
        new_segment: makes the spool open another segment.
        status: what the collector says of itself.
        on_clock: is told how our clock stands against the database's.
        resend_all: also send what another database has acknowledged.
        dead_closed: the stretches of processes that have died have their end.
    """

    client_id: str
    first_segment: uuid.UUID | None
    new_segment: Callable[[], Awaitable[object]]
    status: Callable[[], dict[str, Any]]
    on_clock: Callable[[ClockReading], object]
    resend_all: bool
    pace: Pace
    backlog: Backlog
    bell: Bell
    state: State = dataclasses.field(default_factory=State)
    dead_closed: bool = False
