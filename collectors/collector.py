"""One collector, put together: from the network to the spool to the database, until it is told to stop."""

import asyncio
import contextlib
import dataclasses
import functools
import logging
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

from collectors import epochs, privacy, summary, supervisor
from collectors.client import Ears, Vantage
from collectors.counts import Counts
from collectors.coverage import Ledger
from collectors.flush import Flusher
from collectors.intake import Intake
from collectors.keys import KeyRing, KeyRingError
from collectors.pseudonym import Pseudonymiser
from collectors.session import State, Terms
from collectors.settings import CollectorSettings
from collectors.spool import Depth, Spool
from collectors.writer import Writer
from soulseek_research.storage import location
from soulseek_research.storage.database import Role

_log = logging.getLogger(__name__)

MINUTE_SECONDS = 60.0
EPOCHS_SECONDS = 300.0
KEY_CHECK_SECONDS = 5.0


@dataclasses.dataclass(frozen=True)
class _Parts:
    database: location.Location
    pseudonym: Pseudonymiser
    ledger: Ledger
    intake: Intake
    flusher: Flusher
    writer: Writer


class Collector:
    """Listens at one place and keeps what it hears.

    Args:
        settings: what it was told.
        on_state: is told each change of state, in words that name nobody.
    """

    def __init__(self, settings: CollectorSettings, on_state: Callable[[str], object] = lambda _: None) -> None:
        self.settings = settings
        self.on_state = on_state
        self._counts = Counts()
        self._stopping = asyncio.Event()
        self._started_at = time.time()
        self._state, self._detail, self._since = State.CONNECTING, "", time.time()
        self._connections = 0
        self._kept: deque[int] = deque(maxlen=int(MINUTE_SECONDS) + 1)  # in all, by second
        self._parts: _Parts | None = None
        self._warning: str | None = None

    def stop(self) -> None:
        """End `run`, with everything flushed."""
        self._stopping.set()

    async def run(self) -> None:
        """Listen until `stop` is called or this is cancelled; both flush first.

        Raises:
            CollectorError: It makes no sense to go on; the text says why.
            StorageError: The database cannot be used and never could.
        """
        privacy.install(debug=self.settings.log_level == "DEBUG")
        privacy.guard_loop(asyncio.get_running_loop())
        with location.found(self.settings) as database:
            async with self._assembled(database) as parts:
                self._parts = parts
                await self._work(parts)

    def status(self) -> dict[str, Any]:
        """What it says of itself: numbers and states, no name and no secret."""
        parts, counts = self._parts, self._counts
        writer = parts.writer.state if parts else None
        place = parts.ledger.place_now if parts else None
        depth = (writer and writer.backlog) or Depth(0, 0, 0, None)
        clock = writer and writer.clock
        heard_at = parts.intake.last_heard if parts else 0.0
        return {
            "client_id": self.settings.client_id,
            "software": metadata.version("soulseek-research"),
            "pid": os.getpid(),
            "started_at": _iso(self._started_at),
            "state": self._state.value,
            "detail": self._detail,
            "since": _iso(self._since),
            "role": place and place[0],
            "level": place and place[1],
            "last_heard_at": _iso(heard_at) if heard_at else None,
            "connections": self._connections,
            "kept_last_minute": counts.kept - self._kept[0] if self._kept else counts.kept,
            "totals": {
                "kept": counts.kept,
                "duplicates": counts.duplicates,
                "refused": dict(counts.refused),
                "dropped": dict(counts.dropped) | (writer.dropped if writer else {}),
            },
            "spool": {
                "searches": depth.searches,
                "bytes": depth.bytes,
                "oldest_at": _iso(depth.oldest_ms / 1000) if depth.oldest_ms is not None else None,
            },
            "database": {
                "connected": bool(writer and writer.connected),
                "error": writer and writer.error,
                "last_batch_at": _iso(writer.last_batch_at) if writer and writer.last_batch_at else None,
            },
            "clock": {
                "offset_ms": clock.offset_ms,
                "round_trip_ms": clock.round_trip_ms,
                "synchronised": clock.synchronised,
            }
            if clock
            else None,
            "warning": self._warning or (parts.flusher.trouble if parts else None),
        }

    @contextlib.asynccontextmanager
    async def _assembled(self, database: location.Location) -> AsyncIterator[_Parts]:
        settings = self.settings
        ring = KeyRing(settings.keys_dir)
        spool = Spool(settings.spool_path, settings.spool_max_bytes)
        try:
            known = await epochs.at_start(database, spool, ring, settings.pseudonyms)
            pseudonym = Pseudonymiser(ring, known)
            pseudonym.require_key(_now_ms())
            segment = spool.open_segment()
            ledger = Ledger(self._counts, pseudonym, now=time.time())
            intake = Intake(pseudonym, self._counts, own_username=settings.username)
        except BaseException:
            spool.close()
            raise
        writer = Writer(
            functools.partial(database.connect, Role.COLLECTOR),
            settings.client_id,
            settings.spool_path,
            first_segment=segment.segment_id,
            new_segment=lambda: flusher.with_spool(Spool.open_segment),
            status=self.status,
            on_clock=ledger.set_clock,
        )
        flusher = Flusher(spool, intake, ledger, on_appended=writer.appended)
        try:
            yield _Parts(database, pseudonym, ledger, intake, flusher, writer)
        finally:
            await flusher.close()

    async def _work(self, parts: _Parts) -> None:
        writing = asyncio.create_task(parts.writer.run(), name="writer")
        tasks: list[asyncio.Task[Any]] = [writing]
        try:
            await _until_claimed(parts.writer, writing)
            works = self._listen(parts), parts.flusher.run(), self._keep_epochs(parts), self._count_minutes()
            tasks += [asyncio.create_task(work) for work in (*works, self._stopping.wait())]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _uninterrupted(self._wind_up(parts, tasks))
        for task in tasks:
            if task.done() and not task.cancelled() and (error := task.exception()):
                raise error

    async def _wind_up(self, parts: _Parts, tasks: list[asyncio.Task[Any]]) -> None:
        """First nothing more is heard, then all of it goes to the spool, then as much as can be to the database."""
        writing, *others = tasks
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        try:
            await parts.flusher.flush(whatever=True)
        finally:
            if not writing.done():
                await parts.writer.close(self.settings.drain_seconds)
            await asyncio.gather(writing, return_exceptions=True)

    async def _listen(self, parts: _Parts) -> None:
        settings = self.settings
        host, port = settings.server_address
        await supervisor.listen_forever(
            Vantage(host, port, settings.username, settings.account_password(), listen_port=settings.listen_port),
            Ears(parts.intake, self._counts, parts.ledger),
            terms=Terms(silence_seconds=settings.silence_seconds),
            on_state=self._note_state,
        )

    def _note_state(self, state: State, detail: str) -> None:
        if state is State.CONNECTING:
            self._connections += 1
        self._state, self._detail, self._since = state, detail, time.time()
        self.on_state(f"{state.value}: {detail}" if detail else state.value)

    async def _keep_epochs(self, parts: _Parts) -> None:
        """Learn of new key epochs in time, and stop when one begins whose key is not here: there is no fallback."""
        asked_at = time.monotonic()
        while True:
            if time.monotonic() - asked_at >= EPOCHS_SECONDS:
                asked_at = time.monotonic()
                await self._refresh_epochs(parts)
            parts.pseudonym.require_key(_now_ms())
            missing = parts.pseudonym.next_missing(_now_ms())
            warning = f"the key {missing.key_id} counts soon and is not here" if missing else None
            if warning and warning != self._warning:
                _log.warning("%s: bring it with `soulseek-research key import`", warning)
            self._warning = warning
            await asyncio.sleep(KEY_CHECK_SECONDS)

    async def _refresh_epochs(self, parts: _Parts) -> None:
        try:
            async with parts.database.session(Role.COLLECTOR) as connection:
                known = await epochs.known(connection)
        except Exception as error:  # noqa: BLE001 - the writer tells what is wrong with the database
            _log.debug("key epochs not refreshed: %s", type(error).__name__)
            return
        try:
            parts.pseudonym.refresh(known)
        except KeyRingError as error:
            # What was known stays in force: a file that somebody drops into the key folder stops nothing.
            _log.warning("%s", error)
            return
        await parts.flusher.with_spool(epochs.remember, known)

    async def _count_minutes(self) -> None:
        seconds = 0
        while True:
            self._kept.append(self._counts.kept)
            await asyncio.sleep(1)
            seconds += 1
            if seconds % MINUTE_SECONDS == 0:
                _log.info("%s", summary.line(self.status()))


async def _until_claimed(writer: Writer, writing: asyncio.Task[None]) -> None:
    """Wait until the client id is ours, or the database is away: two that log in to one account would only quarrel."""
    while not (writer.state.connected or writer.state.error or writing.done()):  # noqa: ASYNC110 - once, at the start
        await asyncio.sleep(0.02)


async def _uninterrupted(work: Coroutine[Any, Any, None]) -> None:
    """See it through, however often this is cancelled meanwhile."""
    task = asyncio.ensure_future(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            cancelled = True
    task.result()
    if cancelled:
        raise asyncio.CancelledError


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
