"""`soulseek-research status`."""

import asyncio
from typing import Any

import click

from flows import options, tables
from soulseek_research.storage import location, overview, queries
from soulseek_research.storage.database import Role
from soulseek_research.storage.overview import CollectorOverview
from soulseek_research.storage.settings import StorageSettings


@click.command(epilog="Example:  soulseek-research status --json")
@options.from_settings(StorageSettings)
@click.option("--json", "as_json", is_flag=True, help="As JSON, with everything that is known.")
def status(settings: StorageSettings, as_json: bool) -> None:
    """Show each collector: whether it listens, where, what it keeps, and what it had to leave.

    What was heard twice, refused and dropped is counted since the collector's last start. Needs a login that may read:
    the owner's, or one in the role soulseek_research_analyst.
    """
    with location.found(settings) as database:
        collectors, gaps = asyncio.run(_overview(database))
    rows = [_row(one) for one in collectors]
    if as_json:
        rows = [
            row | {"missing": [gap for gap in gaps if gap["client"] == one.client_id], "reports": one.status}
            for row, one in zip(rows, collectors, strict=True)
        ]
    tables.show(rows, as_json=as_json, empty="No collector has written to this database yet.")
    if gaps and not as_json:
        tables.show(gaps, title="\nWhat is missing, and why")


async def _overview(database: location.Location) -> tuple[list[CollectorOverview], list[dict[str, Any]]]:
    await database.prepare()
    async with database.session(Role.ANALYST) as connection:
        gaps = await connection.fetch(queries.load("latest_gaps"))
        return await overview.overview(connection), [dict(gap) for gap in gaps]


def _row(one: CollectorOverview) -> dict[str, Any]:
    stretch, reports = one.stretch, one.status
    totals = reports.get("totals", {})
    return {
        "client": one.client_id,
        "listening": one.listening,
        "since": stretch and (stretch.started_at if one.listening else stretch.ended_at),
        "why not": None if one.listening else _why_not(one),
        "role": stretch and stretch.role,
        "level": stretch and stretch.branch_level,
        "last_minute": one.kept_minute,
        "last_hour": one.kept_hour,
        "last_day": one.kept_day,
        "in spool": reports.get("spool", {}).get("searches"),
        "last_batch": one.last_batch_at,
        "clock_ms": stretch and stretch.clock_offset_ms,
        "heard twice": totals.get("duplicates"),
        "refused": totals.get("refused"),
        "dropped": totals.get("dropped"),
        "gaps": one.gaps,
    }


def _why_not(one: CollectorOverview) -> str:
    if one.status.get("state") in (None, "listening"):
        return "not heard of since " + one.heartbeat_at.strftime("%H:%M:%SZ")
    state, detail = one.status["state"], one.status.get("detail")
    return f"{state}: {detail}" if detail and detail != state else state
