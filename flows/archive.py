"""The flow that archives months that are over: seal, export, verify, record, and drop when retention says so.

It is thin on purpose: each task is one step of `soulseek_research.storage.archive`, which finds out by itself, from the
catalogue and the file, what is done already. So a run that was killed anywhere is simply followed by another.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from flows import archive_steps, asking, months, parts
from flows.archive_steps import PATIENT, step, whole
from flows.complaints import complaint
from flows.months import Candidate
from soulseek_research.storage.archive import catalogue, deleting, exporting, recording, sealing, verifying
from soulseek_research.storage.archive.catalogue import Part
from soulseek_research.storage.archive.month import Month
from soulseek_research.storage.archive.settings import Format


@dataclass
class Outcome:
    """How it went with one month: archived, waiting for the reason given, or failed with it."""

    month: Month
    archived: list[Part] = field(default_factory=list)
    waiting: str | None = None
    failed: str | None = None

    def __str__(self) -> str:
        return months.say(self.month, self.failed or self.waiting or parts.told(self.archived))


def _run_name() -> str:
    given = flow_run.parameters
    return "archive " + (given["month"] or " to ".join(filter(None, (given["first"], given["last"]))) or "what is due")


@flow(name="archive", flow_run_name=_run_name, retries=0, persist_result=False, log_prints=False)
async def archive(
    month: str | None = None,
    first: str | None = None,
    last: str | None = None,
    keep: bool = False,
    format: Format | None = None,  # noqa: A002 - as the command's flag
) -> State[Any]:
    """Archive every month that is over and ready, or the month or the range of months that is asked for.

    The database, the place of the archives and its credentials come from the environment of the worker (see
    `prefect.yaml`), never as parameters: Prefect keeps those in plain text.

    Args:
        month: One month, as 2026-10.
        first: The first month of a range.
        last: The last month of it, included.
        keep: Leave the sealed tables in the database whatever retention says.
        format: How the file is written, instead of as the worker's environment says.
    """
    logger = get_run_logger()
    try:
        async with archive_steps.opened(archive_steps.settings(format)):
            asked = asking.months(month, first, last)
            outcomes = [
                await _month(candidate, asked is not None, keep, format, logger)
                for candidate in await find_months(asked, keep)
            ]
    except Exception as error:  # noqa: BLE001 - Prefect would show its traceback, which may hold what must not be shown
        return Failed(message=complaint(error))
    return _conclusion(outcomes)


@task(name="find months", task_run_name="find months", **PATIENT)
async def find_months(asked: Sequence[Month] | None, keep: bool) -> list[Candidate]:
    """Look at the months that are due, or asked for."""
    async with step("find", "months") as work:
        await work.database.prepare()
        return await months.candidates(work.database, asked, keep=keep)


@task(name="seal", task_run_name="seal {month}", **PATIENT)
async def seal_month(month: Month) -> list[Part]:
    """Take the month out of `searches`; returns its parts that are not archived and dropped yet."""
    async with step("seal", str(month)) as work:
        return await sealing.seal(work, month)


@task(name="export", task_run_name="export {part.name}", **PATIENT)
async def export_month(part: Part, archive_format: Format | None) -> Part:
    """Write the file, in every place."""
    async with step("export", part.name, archive_format) as work:
        return whole(work, "export", await exporting.export(work, part))


@task(name="verify", task_run_name="verify {part.name}", **PATIENT)
async def verify_archive(part: Part) -> Part:
    """Read the file back and compare it with the table."""
    async with step("verify", part.name) as work:
        return whole(work, "verify", await verifying.verify(work, part))


@task(name="record", task_run_name="record {part.name}", **PATIENT)
async def record_archive(part: Part) -> Part:
    """Write it into the catalogue, and the manifest beside the file."""
    async with step("record", part.name) as work:
        return await recording.record(work, part)


@task(name="delete", task_run_name="delete {part.name}", **PATIENT)
async def delete_month(part: Part) -> Part:
    """Check file and manifest once more and drop the sealed table."""
    async with step("delete", part.name) as work:
        return whole(work, "delete", await deleting.delete(work, part))


async def _month(
    candidate: Candidate, by_name: bool, keep: bool, archive_format: Format | None, logger: archive_steps.Logger
) -> Outcome:
    """Archive one month; that it fails stops no other."""
    outcome = Outcome(candidate.month)
    if candidate.waiting is not None and by_name:
        outcome.failed = candidate.waiting
    elif candidate.waiting is not None:
        outcome.waiting = candidate.waiting
    else:
        try:
            outcome.archived = await _parts(candidate, keep, archive_format)
            await _show(outcome, logger)
        except Exception as error:  # noqa: BLE001 - whatever it is
            outcome.failed = complaint(error)
    (logger.error if outcome.failed else logger.info)(str(outcome))
    return outcome


async def _parts(candidate: Candidate, keep: bool, archive_format: Format | None) -> list[Part]:
    done = []
    for sealed in await seal_month(candidate.month):
        part = sealed
        if part.state is not catalogue.State.ARCHIVED:
            part = await export_month(part, archive_format)
            part = await verify_archive(part)
            part = await record_archive(part)
        if candidate.droppable and not keep:
            part = await delete_month(part)
        done.append(part)
    return done


async def _show(outcome: Outcome, logger: archive_steps.Logger) -> None:
    if outcome.archived:
        figures = parts.figures(outcome.archived)
        await archive_steps.show_table(f"archive-{outcome.month}", figures, f"The archive of {outcome.month}", logger)


def _conclusion(outcomes: list[Outcome]) -> State[Any]:
    said = "\n".join(map(str, sorted(outcomes, key=lambda one: (not one.failed, one.month)))) or "No month is due."
    if any(one.failed for one in outcomes):
        return Failed(message=said)
    if outcomes and all(one.waiting for one in outcomes):
        return Completed(name="Waiting", message=said)
    return Completed(message=said)
