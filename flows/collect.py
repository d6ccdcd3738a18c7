"""The flow that listens in one region until it is cancelled.

It is thin on purpose: `collectors` does the work and knows nothing of Prefect. What must hold (nothing lost, nothing
twice, one collector a client id) holds by the spool and the locks, also when Prefect or its server fails.
"""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Iterator
from typing import Any
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.artifacts import acreate_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.client.schemas.objects import State, StateType
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed
from rich.console import Console

from collectors import claim, collector, spool, summary
from collectors.settings import CollectorSettings
from flows import options, run_logs
from flows.complaints import complaint

FIRST_SUMMARY_SECONDS = 10.0
SUMMARY_SECONDS = 60.0
# Prefect's client would ask a server that is away for minutes, and a run that ends is killed after 30 s.
API_SECONDS = 5.0
# Not crashed: Prefect takes a collector for dead when it has not heard of it for a while.
CALLED_OFF = {StateType.CANCELLING, StateType.CANCELLED, StateType.PAUSED}
FLUSHED = "Stopped, with everything flushed."

Logger = logging.Logger | logging.LoggerAdapter[Any]


@flow(name="collect", flow_run_name="{client_id}", retries=0, persist_result=False, log_prints=False)
async def collect(client_id: str) -> State[Any]:
    """Hear every search that reaches one region and keep it, until the run is cancelled.

    The account, the database and the key come from the environment of the worker (see `prefect.yaml`), never as
    parameters: Prefect keeps those in plain text.

    Args:
        client_id: names the region in every row, for ever.
    """
    Console.on_broken_pipe = _fall_silent  # type: ignore[assignment]
    logger = get_run_logger()
    try:
        settings = options.read(CollectorSettings, {"client_id": client_id})
        await _listen(collector.Collector(settings, on_state=logger.info), logger)
    except (claim.AlreadyClaimed, spool.SpoolLocked) as error:
        return Completed(name="Skipped", message=str(error))
    except Exception as error:  # noqa: BLE001 - Prefect would show its traceback, which may hold what must not be shown
        return Failed(message=complaint(error))
    if not await _is_called_off():
        # Not by Prefect's will, so that Prefect should know; what was heard is safe.
        signal.raise_signal(signal.SIGTERM)
    return Cancelled(message=FLUSHED)


async def _listen(listening: collector.Collector, logger: Logger) -> None:
    with _terminated_gently(listening), run_logs.warnings_shown():
        accompanying = asyncio.create_task(_accompany(listening, logger), name="prefect")
        try:
            await listening.run()
        finally:
            accompanying.cancel()
            await asyncio.wait([accompanying], timeout=API_SECONDS)


@contextlib.contextmanager
def _terminated_gently(listening: collector.Collector) -> Iterator[None]:
    """Let SIGTERM, by which Prefect cancels a run, stop the collector before Prefect hears of it.

    Prefect's own handler raises in the midst of the event loop, which then cancels every task at once: also those that
    are about to bring the last searches to the database.
    """
    loop, prefects = asyncio.get_running_loop(), signal.getsignal(signal.SIGTERM)
    loop.add_signal_handler(signal.SIGTERM, listening.stop)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, prefects)


def _fall_silent(console: Console) -> None:
    """Go on without a console: a worker that dies takes it along, and rich would end the process at the next line."""
    console.quiet = True


async def _accompany(listening: collector.Collector, logger: Logger) -> None:
    """Once a minute, show in the Prefect UI what was heard, and see whether the run was called off.

    No run is told by a worker that was killed, or that once lost its server; and none is told that it is suspended.
    """
    artifact: UUID | None = None
    await asyncio.sleep(FIRST_SUMMARY_SECONDS)
    while True:
        try:
            status = listening.status()
            logger.info(summary.line(status))
            artifact = await _write(artifact, listening.settings.client_id, summary.page(status))
        except Exception as error:  # noqa: BLE001 - Prefect's server being away never stops a collector
            logger.warning("The summary cannot be shown: %s", type(error).__name__)
        if await _is_called_off():
            listening.stop()
        await asyncio.sleep(SUMMARY_SECONDS)


async def _write(artifact: UUID | None, client_id: str, page: str) -> UUID:
    """Write the one artifact of a run, anew in place: years of minutes leave no trail in Prefect's database."""
    async with asyncio.timeout(API_SECONDS):
        if artifact is None:
            key = "collector-" + "".join(letter if letter.isalnum() else "-" for letter in client_id.lower())
            return await acreate_markdown_artifact(page, key=key, description=f"What {client_id} hears")
        async with get_client() as client:
            await client.update_artifact(artifact, ArtifactUpdate(data=page))
        return artifact


async def _is_called_off() -> bool:
    """Whether somebody cancelled or suspended this run; not known while Prefect's server is away."""
    with contextlib.suppress(Exception):
        async with asyncio.timeout(API_SECONDS), get_client() as client:
            run = await client.read_flow_run(flow_run.id)
            return run.state is not None and run.state.type in CALLED_OFF
    return False
