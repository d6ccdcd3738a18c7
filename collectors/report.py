"""What a collector says of itself: in the database with each batch, and in a line a minute."""

import asyncio
import dataclasses
import logging
import os
import time
from collections import deque
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

from collectors import summary
from collectors.counts import Counts
from collectors.coverage import Ledger
from collectors.flush import Flusher
from collectors.housekeeping import Housekeeping
from collectors.intake import Intake
from collectors.session import State
from collectors.spool import Depth
from collectors.writer import Writer

_log = logging.getLogger(__name__)

MINUTE_SECONDS = 60


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a collector is made of."""

    ledger: Ledger
    intake: Intake
    flusher: Flusher
    writer: Writer
    house: Housekeeping


class Report:
    """Numbers and states; no name and no secret."""

    def __init__(self, client_id: str, counts: Counts) -> None:
        self._client_id = client_id
        self._counts = counts
        self._started_at = time.time()
        self._state, self._detail, self._since = State.CONNECTING, "", time.time()
        self._connections = 0
        self._kept: deque[int] = deque(maxlen=MINUTE_SECONDS + 1)  # in all, by second

    def note_state(self, state: State, detail: str) -> None:
        """The listening has changed its state."""
        if state is State.CONNECTING:
            self._connections += 1
        self._state, self._detail, self._since = state, detail, time.time()

    async def run(self, parts: Parts) -> None:
        """Log a line a minute until cancelled."""
        seconds = 0
        while True:
            self._kept.append(self._counts.kept)
            await asyncio.sleep(1)
            seconds += 1
            if seconds % MINUTE_SECONDS == 0:
                _log.info("%s", summary.line(self.document(parts)))

    def document(self, parts: Parts | None) -> dict[str, Any]:
        """All of it, as JSON takes it."""
        counts = self._counts
        writer = parts.writer.state if parts else None
        place = parts.ledger.place_now if parts else None
        depth = (writer and writer.backlog) or Depth(0, 0, 0, None)
        clock = writer and writer.clock
        heard_at = parts.intake.last_heard if parts else 0.0
        return {
            "client_id": self._client_id,
            "software": metadata.version("soulseek-research"),
            "pid": os.getpid(),
            "started_at": _iso(self._started_at),
            "state": self._state.value,
            "detail": self._detail,
            "since": _iso(self._since),
            "role": place and place[0],
            "level": place and place[1],
            "last_heard_at": _iso(heard_at) if heard_at else None,
            "connections": self._connections,
            "kept_last_minute": counts.kept - self._kept[0] if self._kept else counts.kept,
            "totals": {
                "kept": counts.kept,
                "duplicates": counts.duplicates,
                "refused": dict(counts.refused),
                "dropped": dict(counts.dropped) | (writer.dropped if writer else {}),
            },
            "spool": {
                "searches": depth.searches,
                "bytes": depth.bytes,
                "oldest_at": _iso(depth.oldest_ms / 1000) if depth.oldest_ms is not None else None,
            },
            "database": {
                "connected": bool(writer and writer.connected),
                "error": writer and writer.error,
                "last_batch_at": _iso(writer.last_batch_at) if writer and writer.last_batch_at else None,
            },
            "clock": {
                "offset_ms": clock.offset_ms,
                "round_trip_ms": clock.round_trip_ms,
                "synchronised": clock.synchronised,
            }
            if clock
            else None,
            "warning": (parts.house.warning or parts.flusher.trouble) if parts else None,
        }


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
