"""The flow that listens in one region until it is cancelled.

It is thin on purpose: `collectors` does the work and knows nothing of Prefect. What must hold (nothing lost, nothing
twice, one collector a client id) holds by the spool and the locks, also when Prefect or its server fails.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.artifacts import acreate_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.client.schemas.objects import State
from prefect.states import Completed

from collectors import claim, collector, summary
from collectors.settings import CollectorSettings

SUMMARY_SECONDS = 60.0


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
        async with _shown(listening, logger):
            await listening.run()
    except claim.AlreadyClaimed as error:
        return Completed(name="Skipped", message=str(error))
    return Completed(message="Stopped, with everything flushed.")


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
