"""The flow that brings an archived month back into the database."""

from typing import Any

from prefect import flow, get_run_logger, task
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows import archive_steps, parts
from flows.archive_steps import PATIENT, step, whole
from flows.complaints import complaint
from soulseek_research.storage.archive import restoring
from soulseek_research.storage.archive.catalogue import Part
from soulseek_research.storage.archive.month import Month


@flow(name="restore", flow_run_name="restore {month}", retries=0, persist_result=False, log_prints=False)
async def restore(month: str) -> State[Any]:
    """Load an archived month, all its parts, into tables behind `searches_all`, exactly as it was.

    Args:
        month: The month, as 2026-10.
    """
    logger = get_run_logger()
    try:
        restored = await restore_month(Month.parse(month))
    except Exception as error:  # noqa: BLE001 - Prefect would show its traceback, which may hold what must not be shown
        return Failed(message=complaint(error))
    await archive_steps.show_table(f"restore-{month}", parts.figures(restored), f"What was restored of {month}", logger)
    return Completed(message=f"{month}: {parts.told(restored)}")


@task(name="restore", task_run_name="restore {month}", **PATIENT)
async def restore_month(month: Month) -> list[Part]:
    """Check the files whole, then load them."""
    async with step("restore", str(month)) as work:
        await work.database.prepare()
        restored = await restoring.restore(work, month)
        return [whole(work, "restore", part) for part in restored]
