"""From memory to the spool, every second: what a crash can cost is what came since the last flush."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Concatenate, ParamSpec, TypeVar

from collectors import counts, shielding
from collectors.coverage import Ledger, Snapshot
from collectors.intake import Intake
from collectors.search import Row
from collectors.spool import Spool, SpoolError, SpoolFull

_log = logging.getLogger(__name__)

FLUSH_SECONDS = 0.8
"""From one flush to the next. The rest of the second is the disk's: no search that is older may be lost in a crash."""
HEARTBEAT_SECONDS = 10.0
"""How often a chunk is written while nothing is heard: the collector's sign of life in the database."""
PRUNE_SECONDS = 60.0
LAST_FLUSHES = 4
HELD_SEARCHES = 50_000
"""So many are held in memory while the disk refuses them: minutes on the live network."""

Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")


class Flusher:
    """Owns the spool: all that is appended to it, in a thread of its own, because the disk may take its time.

    Args:
        spool: already locked, with a segment open.
        intake: where the searches come from.
        ledger: whose news go along with each chunk.
        on_appended: told how many searches are in the spool now that were not before.
        may_prune: whether the database has had the chance to say what it lacks of what it once had.
    """

    def __init__(
        self,
        spool: Spool,
        intake: Intake,
        ledger: Ledger,
        *,
        on_appended: Callable[[int], object],
        may_prune: Callable[[], bool] = lambda: True,
    ) -> None:
        self._spool = spool
        self._intake = intake
        self._ledger = ledger
        self._on_appended = on_appended
        self._may_prune = may_prune
        self._thread = ThreadPoolExecutor(1, "spool")
        self._due = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()
        self._held: list[Row] = []
        self._appended_at = -HEARTBEAT_SECONDS
        self._pruned_at = time.monotonic()
        self.trouble: str | None = None
        intake.on_full = self._due.set

    async def run(self) -> None:
        """Flush until cancelled."""
        clock = asyncio.get_running_loop()
        due_at = clock.time() + FLUSH_SECONDS
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(due_at):
                    await self._due.wait()
            self._due.clear()
            due_at = clock.time() + FLUSH_SECONDS
            await self.flush()
            if time.monotonic() - self._pruned_at >= PRUNE_SECONDS and self._may_prune():
                await self._prune()

    async def flush(self, *, whatever: bool = False) -> None:
        """Append what was heard since the last flush.

        Args:
            whatever: also when nothing was heard and the last chunk is fresh.
        """
        async with self._one_at_a_time:
            idle = not (self._held or self._intake.pending)
            if idle and not whatever and time.monotonic() - self._appended_at < HEARTBEAT_SECONDS:
                return
            # Not cancelled half way: what was taken from the intake is then nowhere else.
            await shielding.seen_through(self._take_and_append())

    async def with_spool(self, function: Callable[Concatenate[Spool, Arguments], Result], *arguments: Any) -> Result:
        """Call a function with the spool, between two flushes."""
        async with self._one_at_a_time:
            return await self._in_thread(function, self._spool, *arguments)

    async def flush_last(self) -> None:
        """Append all that is left, with some patience for a disk that does not take it at once."""
        for _ in range(LAST_FLUSHES):
            await self.flush(whatever=True)
            if not self._held:
                return
            await asyncio.sleep(FLUSH_SECONDS)
        _log.error("%d searches are lost: the spool did not take them: %s", len(self._held), self.trouble)

    async def close(self) -> None:
        """Close the spool; the last flush has been made."""
        await self._in_thread(self._spool.close)
        self._thread.shutdown()

    async def _take_and_append(self) -> None:
        now = time.time()
        rows, snapshot = self._held + self._intake.take(), self._ledger.snapshot(now)
        self._held = []
        await self._append(rows, snapshot, now)

    async def _append(self, rows: list[Row], snapshot: Snapshot, now: float) -> None:
        try:
            await self._in_thread(self._spool.append, rows, snapshot, int(now * 1000))
        except SpoolFull as error:
            self._complain(error)
            self._ledger.dropped(snapshot, rows, counts.SPOOL_FULL)
            await self._tell_only(now)
        except SpoolError as error:
            self._complain(error)
            if len(rows) <= HELD_SEARCHES:
                self._held = rows
            else:
                self._ledger.dropped(snapshot, rows, counts.DISK_ERROR)
        else:
            self.trouble = None
            self._took(snapshot, len(rows))

    async def _tell_only(self, now: float) -> None:
        """A full spool still takes a chunk without searches: that they were dropped is never dropped."""
        snapshot = self._ledger.snapshot(now)
        try:
            await self._in_thread(self._spool.append, [], snapshot, int(now * 1000))
        except SpoolError as error:
            self._complain(error)
        else:
            self._took(snapshot, 0)

    def _took(self, snapshot: Snapshot, searches: int) -> None:
        self._ledger.spooled(snapshot)
        self._appended_at = time.monotonic()
        self._on_appended(searches)

    def _complain(self, error: SpoolError) -> None:
        if self.trouble != str(error):
            _log.error("%s", error)
        self.trouble = str(error)

    async def _prune(self) -> None:
        self._pruned_at = time.monotonic()
        try:
            if await self._in_thread(self._spool.prune, time.time_ns() // 1_000_000):
                self._pruned_at -= PRUNE_SECONDS - FLUSH_SECONDS  # there is more: again after the next flush
        except SpoolError as error:
            self._complain(error)

    async def _in_thread(self, function: Callable[..., Result], *arguments: Any) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)
