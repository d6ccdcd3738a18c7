"""What the tasks of the archive flows have in common: their surroundings, what they show, and when they try again."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

from prefect import Task, get_run_logger
from prefect.artifacts import acreate_progress_artifact, acreate_table_artifact, aupdate_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import exponential_backoff

from flows import options, run_logs
from flows.complaints import complaint
from flows.pace import Pace
from soulseek_research.storage import location
from soulseek_research.storage.archive import progress, work
from soulseek_research.storage.archive.catalogue import Part
from soulseek_research.storage.archive.errors import ArchiveBusyError, ArchiveError, is_passing
from soulseek_research.storage.archive.progress import Progress
from soulseek_research.storage.archive.settings import ArchiveSettings, Format
from soulseek_research.storage.archive.work import Work
from soulseek_research.storage.location import Location

SHOW_SECONDS = 3.0
# Prefect's client would ask a server that is away for minutes.
API_SECONDS = 5.0
# After about 5, 10, 20 ... seconds, ten minutes in all: a database restarts, another run ends with the month.
RETRIES = 7
FIRST_RETRY_SECONDS = 5.0
JITTER = 0.5

# The other steps are over in a moment.
LONG = {"export", "verify", "delete", "restore"}

Logger = logging.Logger | logging.LoggerAdapter[Any]


def _may_pass(task: Task[Any, Any], run: TaskRun, state: State[Any]) -> bool:  # noqa: ARG001 - Prefect's signature
    return isinstance(state.data, Exception) and is_passing(state.data)


# Nothing is cached and no result kept: how far a month has come is told by the catalogue and the file alone.
PATIENT: dict[str, Any] = {
    "retries": RETRIES,
    "retry_delay_seconds": exponential_backoff(FIRST_RETRY_SECONDS),
    "retry_jitter_factor": JITTER,
    "retry_condition_fn": _may_pass,
    "cache_policy": NO_CACHE,
    "persist_result": False,
    "log_prints": False,
}


def settings(archive_format: Format | None = None) -> ArchiveSettings:
    """The settings of the worker's environment, in which the secrets are: Prefect keeps parameters in plain text."""
    return options.read(ArchiveSettings, {"archive_format": archive_format})


@contextlib.asynccontextmanager
async def opened(found: ArchiveSettings) -> AsyncIterator[Location]:
    """The database of the settings; the embedded one runs for as long as this lasts."""
    held = location.found(found)
    database = await asyncio.to_thread(held.__enter__)
    try:
        yield database
    finally:
        await asyncio.to_thread(held.__exit__, None, None, None)


@contextlib.asynccontextmanager
async def step(name: str, subject: str, archive_format: Format | None = None) -> AsyncIterator[Work]:
    """What a task needs for its step; how far it comes is shown in the Prefect UI.

    Raises:
        ArchiveBusyError: It failed, and may succeed later.
        ArchiveError: It failed for good. Either says in a line what is wrong; whatever else there was to be said, in a
            traceback say, may hold what Prefect must not show.
    """
    try:
        found = settings(archive_format)
        async with opened(found) as database, _shown(name, subject) as report:
            with run_logs.warnings_shown():
                yield await asyncio.to_thread(work.work, database, found, report)
    except Exception as error:  # noqa: BLE001 - see above
        raise (ArchiveBusyError if is_passing(error) else ArchiveError)(complaint(error)) from None


@contextlib.asynccontextmanager
async def _shown(name: str, subject: str) -> AsyncIterator[progress.Report]:
    """A progress artifact of the task that runs, written anew every few seconds once there is something to show."""
    if name not in LONG:
        yield progress.nobody
        return
    shown = _Shown(key(f"{name}-{subject}"), subject)
    showing = asyncio.create_task(shown.keep_up(), name="progress")
    try:
        yield shown.pace.follow
    finally:
        showing.cancel()
        await asyncio.wait([showing], timeout=API_SECONDS)
    await shown.conclude()


class _Shown:
    def __init__(self, artifact_key: str, subject: str) -> None:
        self.pace = Pace()
        self._key, self._subject = artifact_key, subject
        self._logger = get_run_logger()
        self._artifact: UUID | None = None
        self._written: Progress | None = None

    async def keep_up(self) -> None:
        while True:
            await asyncio.sleep(SHOW_SECONDS)
            if self.pace.latest is not self._written:
                await self._write(100 * (self.pace.share or 0.0))

    async def conclude(self) -> None:
        if self.pace.latest is not None:
            await self._write(100.0)

    async def _write(self, percent: float) -> None:
        latest, line = self.pace.latest, f"{self._subject}, {self.pace.line()}"
        try:
            async with asyncio.timeout(API_SECONDS):
                if self._artifact is None:
                    self._artifact = await acreate_progress_artifact(percent, key=self._key, description=line)
                else:
                    await aupdate_progress_artifact(self._artifact, percent, description=line)
        except Exception as error:  # noqa: BLE001 - Prefect's server being away never stops a step
            self._logger.warning("The progress cannot be shown: %s", type(error).__name__)
        else:
            self._written = latest
            self._logger.info(line)


def whole(work: Work, name: str, part: Part) -> Part:
    """Report a step as done with the whole of a part; returns the part."""
    work.report(Progress(name, part.rows or 0, part.rows, part.file_size or 0))
    return part


async def show_table(name: str, rows: list[dict[str, Any]], title: str, logger: Logger) -> None:
    """Write a table artifact; that the server is away is no reason to fail."""
    try:
        async with asyncio.timeout(API_SECONDS):
            await acreate_table_artifact(rows, key=key(name), description=title)
    except Exception as error:  # noqa: BLE001 - see above
        logger.warning("The table of %s cannot be shown: %s", name, type(error).__name__)


def key(name: str) -> str:
    """A name as Prefect takes it for an artifact: lowercase letters, digits and dashes."""
    return "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name.lower())
