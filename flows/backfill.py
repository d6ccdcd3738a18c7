"""The flow that archives a range of past months, each as a run of its own."""

from typing import Any

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows import archive_steps, asking
from flows.archive import archive
from flows.complaints import complaint
from soulseek_research.storage.archive.settings import Format


@flow(name="backfill", flow_run_name="backfill {first} to {last}", retries=0, persist_result=False, log_prints=False)
async def backfill(
    first: str,
    last: str,
    keep: bool = False,
    format: Format | None = None,  # noqa: A002 - as the command's flag
) -> State[Any]:
    """Archive a range of past months, one after the other, going on past a month that fails.

    Args:
        first: The first month, as 2026-01.
        last: The last month, included.
        keep: Leave the sealed tables in the database whatever retention says.
        format: How the files are written, instead of as the worker's environment says.
    """
    logger = get_run_logger()
    try:
        asked = asking.months(None, first, last) or []
        ended: dict[str, State[Any]] = {}
        async with archive_steps.opened(archive_steps.settings(format)):
            for month in map(str, asked):
                ended[month] = await archive(month=month, keep=keep, format=format, return_state=True)
    except Exception as error:  # noqa: BLE001 - Prefect would show its traceback, which may hold what must not be shown
        return Failed(message=complaint(error))
    table = [{"month": month, "ended": state.name, "how": state.message or ""} for month, state in ended.items()]
    await archive_steps.show_table(f"backfill-{first}-{last}", table, f"The archives of {first} to {last}", logger)
    failed = [month for month, state in ended.items() if not state.is_completed()]
    if failed:
        return Failed(message=f"{len(failed)} of {len(ended)} months failed: {', '.join(failed)}")
    return Completed(message=f"{len(ended)} months are archived, or nothing of them is in the database.")
