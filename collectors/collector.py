"""One collector, put together: from the network to the spool to the database, until it is told to stop."""

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from typing import Any, TypeVar

from collectors import epochs, privacy, shielding, supervisor
from collectors.client import Ears, Vantage
from collectors.counts import Counts
from collectors.coverage import Ledger
from collectors.flush import Flusher
from collectors.housekeeping import Housekeeping
from collectors.intake import Intake
from collectors.keys import KeyRing
from collectors.pseudonym import Pseudonymiser
from collectors.report import Parts, Report
from collectors.session import State, Terms
from collectors.settings import CollectorSettings
from collectors.spool import Spool
from collectors.writer import Writer
from soulseek_research.storage import location
from soulseek_research.storage.database import Role

CLAIM_SECONDS = 60.0

_Task = asyncio.Task[Any]
_Result = TypeVar("_Result")


class _StoppedEarly(Exception):  # noqa: N818 - nothing is wrong
    """`stop` was called before anything was heard."""


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
        self._report = Report(settings.client_id, self._counts)
        self._stopping = asyncio.Event()
        self._parts: Parts | None = None

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
        with location.found(self.settings) as database, contextlib.suppress(_StoppedEarly):
            async with self._assembled(database) as parts:
                self._parts = parts
                await self._work(parts)

    def status(self) -> dict[str, Any]:
        """What it says of itself: numbers and states, no name and no secret."""
        return self._report.document(self._parts)

    @contextlib.asynccontextmanager
    async def _assembled(self, database: location.Location) -> AsyncIterator[Parts]:
        settings = self.settings
        ring = KeyRing(settings.keys_dir)
        spool = Spool(settings.spool_path, settings.spool_max_bytes)
        try:
            known = await self._unless_stopped(epochs.at_start(database, spool, ring, settings.pseudonyms))
            pseudonym = Pseudonymiser(ring, known)
            pseudonym.require_key(_now_ms())
            segment = spool.open_segment()
            ledger = Ledger(self._counts, pseudonym, now=time.time(), silence_seconds=settings.silence_seconds)
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
        flusher = Flusher(spool, intake, ledger, on_appended=writer.appended, may_prune=lambda: writer.state.connected)
        try:
            yield Parts(ledger, intake, flusher, writer, Housekeeping(database, pseudonym, flusher, known))
        finally:
            await flusher.close()

    async def _work(self, parts: Parts) -> None:
        writing: _Task = asyncio.create_task(parts.writer.run())
        works: list[_Task] = []
        try:
            await self._unless_stopped(_until_claimed(parts.writer, writing))
            if not writing.done():
                works = [asyncio.create_task(work) for work in self._works(parts)]
                await asyncio.wait({writing, *works}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await shielding.seen_through(self._wind_up(parts, writing, works))
        for task in (writing, *works):
            if not task.cancelled() and (error := task.exception()):
                raise error

    def _works(self, parts: Parts) -> Iterable[Coroutine[Any, Any, Any]]:
        yield self._listen(parts)
        yield parts.flusher.run()
        yield parts.house.run()
        yield self._report.run(parts)
        yield self._stopping.wait()

    async def _wind_up(self, parts: Parts, writing: _Task, works: list[_Task]) -> None:
        """First nothing more is heard, then all of it goes to the spool, then as much as can be to the database."""
        await _ended(*works[:1])
        try:
            await parts.flusher.flush_last()
            if not writing.done():
                await parts.writer.close(self.settings.drain_seconds)
        finally:
            await _ended(writing, *works)

    async def _listen(self, parts: Parts) -> None:
        settings = self.settings
        host, port = settings.server_address
        await supervisor.listen_forever(
            Vantage(host, port, settings.username, settings.account_password(), listen_port=settings.listen_port),
            Ears(parts.intake, self._counts, parts.ledger),
            terms=Terms(silence_seconds=settings.silence_seconds),
            on_state=self._note_state,
        )

    def _note_state(self, state: State, detail: str) -> None:
        self._report.note_state(state, detail)
        self.on_state(f"{state.value}: {detail}" if detail else state.value)

    async def _unless_stopped(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Do it, and leave it when `stop` is called meanwhile.

        Raises:
            _StoppedEarly: it was left.
        """
        doing, stopping = asyncio.ensure_future(work), asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({doing, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not doing.done():
                raise _StoppedEarly
            return doing.result()
        finally:
            await _ended(doing, stopping)


async def _until_claimed(writer: Writer, writing: _Task) -> None:
    """Wait until the client id is ours, or the database is away: two that log in to one account would only quarrel."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(CLAIM_SECONDS):
            while not (writer.state.connected or writer.state.error or writing.done()):  # noqa: ASYNC110 - once
                await asyncio.sleep(0.02)


async def _ended(*tasks: _Task) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
