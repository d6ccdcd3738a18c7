"""The flow that listens in one region until it is cancelled.

It is thin on purpose: `collectors` does the work and knows nothing of Prefect. What must hold (nothing lost, nothing
twice, one collector a client id) holds by the spool and the locks, also when Prefect or its server fails.
"""

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.artifacts import acreate_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed

from collectors import claim, collector, spool, summary
from collectors.settings import CollectorSettings

SUMMARY_SECONDS = 60.0
FLUSHED = "Stopped, with everything flushed."


@flow(name="collect", flow_run_name="{client_id}", retries=0, persist_result=False, log_prints=False)
async def collect(client_id: str) -> State[Any]:
    """Hear every search that reaches one region and keep it, until the run is cancelled.

    The account, the database and the key come from the environment of the worker (see `.env.example`), never as
    parameters: Prefect keeps those in plain text.

    Args:
        client_id: names the region in every row, for ever.
    """
    logger = get_run_logger()
    listening = collector.Collector(CollectorSettings(client_id=client_id))
    try:
        with _terminated_gently(listening) as termination:
            async with _shown(listening, logger):
                await listening.run()
    except (claim.AlreadyClaimed, spool.SpoolLocked) as error:
        return Completed(name="Skipped", message=str(error))
    if termination.is_set() and not await _is_cancelled():
        # Not by Prefect's will, so that Prefect should know; what was heard is safe.
        signal.raise_signal(signal.SIGTERM)
    return Cancelled(message=FLUSHED) if termination.is_set() else Completed(message=FLUSHED)


@contextlib.contextmanager
def _terminated_gently(listening: collector.Collector) -> Iterator[asyncio.Event]:
    """Let SIGTERM, by which Prefect cancels a run, stop the collector before Prefect hears of it.

    Prefect's own handler raises in the midst of the event loop, which then cancels every task at once: also those that
    are about to bring the last searches to the database.

    Returns:
        An event that tells whether it came.
    """
    termination = asyncio.Event()

    def terminate() -> None:
        termination.set()
        listening.stop()

    loop, prefects = asyncio.get_running_loop(), signal.getsignal(signal.SIGTERM)
    loop.add_signal_handler(signal.SIGTERM, terminate)
    try:
        yield termination
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, prefects)


async def _is_cancelled() -> bool:
    """Whether this run is to end because somebody cancelled it; not known while Prefect's server is away."""
    with contextlib.suppress(Exception):
        async with get_client() as client:
            run = await client.read_flow_run(flow_run.id)
            return run.state is not None and (run.state.is_cancelling() or run.state.is_cancelled())
    return False


@contextlib.asynccontextmanager
async def _shown(
    listening: collector.Collector, logger: "logging.Logger | logging.LoggerAdapter[Any]"
) -> AsyncIterator[None]:
    """Show in the Prefect UI, once a minute, what was heard."""
    listening.on_state = logger.info
    showing = asyncio.create_task(_show(listening, logger), name="prefect summary")
    try:
        yield
    finally:
        showing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await showing


async def _show(listening: collector.Collector, logger: "logging.Logger | logging.LoggerAdapter[Any]") -> None:
    """One artifact, written anew in place, so that years of minutes leave no trail in Prefect's database."""
    artifact: UUID | None = None
    while True:
        await asyncio.sleep(SUMMARY_SECONDS)
        status = listening.status()
        logger.info(summary.line(status))
        try:
            artifact = await _write(artifact, listening.settings.client_id, summary.page(status))
        except Exception as error:  # noqa: BLE001 - Prefect's server being away never stops a collector
            logger.warning("The summary cannot be shown: %s", type(error).__name__)


async def _write(artifact: UUID | None, client_id: str, page: str) -> UUID:
    if artifact is None:
        key = "collector-" + "".join(letter if letter.isalnum() else "-" for letter in client_id.lower())
        return await acreate_markdown_artifact(page, key=key, description=f"What {client_id} hears")
    async with get_client() as client:
        await client.update_artifact(artifact, ArtifactUpdate(data=page))
    return artifact
