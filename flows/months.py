"""Which months an archive run is about, whether each is ready, and what would be done with it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import asyncpg

from soulseek_research.storage.archive import catalogue, retention, sealing
from soulseek_research.storage.archive.catalogue import Part, State
from soulseek_research.storage.archive.month import Month
from soulseek_research.storage.database import Role
from soulseek_research.storage.location import Location

# What is left to do with a part that has come so far.
_LEFT = {
    State.SEALED: ["export", "verify", "record"],
    State.EXPORTED: ["verify", "record"],
    State.VERIFIED: ["record"],
}


@dataclass(frozen=True)
class Candidate:
    """A month to be archived.

    Attributes:
        month: The month.
        waiting: Why it cannot be sealed yet; None when it can.
        droppable: Whether retention lets its sealed tables go once they are archived.
        due: Whether anything of it is left to seal, export, verify or record.
        parts: What the catalogue knows of it.
    """

    month: Month
    waiting: str | None
    droppable: bool
    due: bool
    parts: Sequence[Part]


async def candidates(
    database: Location, months: Sequence[Month] | None, *, keep: bool = False, now: datetime | None = None
) -> list[Candidate]:
    """Look at the months that are asked for, in order.

    Args:
        database: Where they are.
        months: None for all that have something left to do: also those whose tables retention no longer keeps.
        keep: Whether tables stay whatever retention says.
        now: Another moment than this, for a test.
    """
    now = now or datetime.now(UTC)
    async with database.session(Role.ARCHIVIST) as connection:
        due = set(await sealing.due(connection, now))
        policy = await retention.policy(connection)
        known = await catalogue.parts(connection)
        if months is None:
            let_go = {one.month for one in known if _is_sealed(one) and retention.droppable(one.month, policy, now)}
            months = sorted(due if keep else due | let_go)
        return [
            Candidate(
                month=one,
                waiting=await sealing.waiting_for(connection, one, now),
                droppable=retention.droppable(one, policy, now),
                due=one in due,
                parts=[part for part in known if part.month == one],
            )
            for one in months
        ]


async def plan(connection: asyncpg.Connection, candidate: Candidate, *, keep: bool) -> list[dict[str, Any]]:
    """What an archive run would do with a month, a line a part, with a reason where it does nothing."""
    drops = candidate.droppable and not keep
    stays = None if drops else "its table stays: " + ("--keep" if keep else "retention keeps it queryable")
    lines = []
    for part in candidate.parts:
        steps = _LEFT.get(part.state, []) + (["drop"] if drops and _is_here(part) else [])
        reason = stays if _is_here(part) else "it is archived" if part.state is State.ARCHIVED else part.state.value
        lines.append(_line(candidate, part.number, part.state.value, steps, reason))
    if candidate.waiting is not None:
        lines.append(_line(candidate, None, "live", [], candidate.waiting))
    elif await _is_live(connection, candidate.month):
        steps = ["seal", *_LEFT[State.SEALED], *(["drop"] if drops else [])]
        lines.append(_line(candidate, None, "live", steps, stays))
    return lines or [_line(candidate, None, None, [], "nothing of it is in the database")]


def say(month: Month, reason: str) -> str:
    """What is the matter with a month, in a line that names it once."""
    return reason if reason.startswith(str(month)) else f"{month}: {reason}"


def _line(
    candidate: Candidate, number: int | None, state: str | None, steps: list[str], reason: str | None
) -> dict[str, Any]:
    return {
        "month": str(candidate.month),
        "part": number,
        "state": state,
        "would": ", ".join(steps) or "nothing",
        "because": reason,
    }


def _is_sealed(part: Part) -> bool:
    """Whether it is archived and its sealed table is still there; one that was restored is somebody's wish."""
    return part.state is State.ARCHIVED and _is_here(part)


def _is_here(part: Part) -> bool:
    return part.table_name is not None and part.restored_at is None


async def _is_live(connection: asyncpg.Connection, one: Month) -> bool:
    """Whether `searches` has a partition of that month."""
    found = await connection.fetchval(
        "SELECT pg_partition_root(to_regclass($1)) = 'public.searches'::regclass",
        f"public.searches_{one.year:04}_{one.number:02}",
    )
    return bool(found)
