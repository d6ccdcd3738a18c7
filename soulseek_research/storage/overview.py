"""What the database knows of each collector at this moment, for `status`."""

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import asyncpg

from soulseek_research.storage import queries

# A collector writes at least every ten seconds, or twenty when its batch has just missed one.
SILENT_AFTER = timedelta(seconds=60)


@dataclass(frozen=True)
class Stretch:
    """A time in which one collector listened at one place in the tree. All times are UTC."""

    started_at: datetime
    ended_at: datetime  # known to have listened until here
    end_reason: str | None  # None while it lasts
    role: str  # "child", "branch root" or "addressed"
    branch_level: int
    branch_root: str | None  # a pseudonym
    kept: int
    duplicates: int
    refused: int
    dropped: int
    reasons: dict[str, int]  # of what was refused and dropped
    clock_offset_ms: float | None  # the collector's clock minus the database's
    clock_round_trip_ms: float | None
    clock_synchronised: bool | None  # None where its host does not say


@dataclass(frozen=True)
class CollectorOverview:
    """One collector. All times are UTC, by the clock of the database."""

    client_id: str
    listening: bool
    claimed_at: datetime
    heartbeat_at: datetime
    last_batch_at: datetime | None
    status: dict[str, Any]  # what it last said of itself
    kept_minute: int  # in the last minute, hour and day
    kept_hour: int
    kept_day: int
    gaps: int  # how many were recorded, ever
    missing: int  # searches in these gaps, as far as anybody can know
    stretch: Stretch | None  # the one that lasts, or the last one


async def overview(
    connection: asyncpg.Connection, *, silent_after: timedelta = SILENT_AFTER
) -> list[CollectorOverview]:
    """Return all collectors that ever wrote here, by client id.

    Args:
        connection: Of the owner, an archivist or an analyst.
        silent_after: A collector that has not been heard of for so long does not listen, whatever it said last.
    """
    rows = await connection.fetch(queries.load("overview"), silent_after)
    return [
        CollectorOverview(
            client_id=row["client_id"],
            listening=row["listening"],
            claimed_at=row["claimed_at"],
            heartbeat_at=row["heartbeat_at"],
            last_batch_at=row["last_batch_at"],
            status=json.loads(row["status"]),
            kept_minute=row["kept_minute"],
            kept_hour=row["kept_hour"],
            kept_day=row["kept_day"],
            gaps=row["gaps"],
            missing=row["missing"],
            stretch=_stretch(row),
        )
        for row in rows
    ]


def _stretch(row: asyncpg.Record) -> Stretch | None:
    if row["started_at"] is None:
        return None
    return Stretch(
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        end_reason=row["end_reason"],
        role=row["role"],
        branch_level=row["branch_level"],
        branch_root=row["branch_root"],
        kept=row["kept"],
        duplicates=row["duplicates"],
        refused=row["refused"],
        dropped=row["dropped"],
        reasons=json.loads(row["reasons"]),
        clock_offset_ms=row["clock_offset_ms"],
        clock_round_trip_ms=row["clock_round_trip_ms"],
        clock_synchronised=row["clock_synchronised"],
    )
