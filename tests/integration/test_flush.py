import asyncio
import statistics
import time
from pathlib import Path
from typing import Any

from collectors.counts import Counts
from collectors.coverage import Ledger
from collectors.flush import Flusher
from collectors.intake import Intake
from collectors.search import Source
from collectors.spool import Spool
from tests.listening import unveiled

DISK_SECONDS = 0.05


class SlowSpool(Spool):
    """A spool on a slow disk, which knows how old the oldest search of each chunk was when it was safe."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.ages: list[float] = []

    def append(self, rows: Any, *more: Any) -> int:
        time.sleep(DISK_SECONDS)
        position = super().append(rows, *more)
        self.ages += [time.time() - rows[0][0] / 1000] if rows else []
        return position


async def test_what_was_heard_a_second_ago_is_on_the_disk(tmp_path: Path) -> None:
    counts = Counts()
    intake = Intake(unveiled, counts, own_username=None)
    spool = SlowSpool(tmp_path / "spool" / "eu.sqlite")
    spool.open_segment()
    flusher = Flusher(spool, intake, Ledger(counts, unveiled, now=time.time()), on_appended=lambda _: None)
    running = asyncio.create_task(flusher.run())
    try:
        for ticket in range(400):
            intake.hear(Source.ADDRESSED, "anna", ticket, f"query {ticket}")
            await asyncio.sleep(0.01)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await flusher.close()
    # The median, because a busy machine may hold up any single one.
    assert 0.5 < statistics.median(spool.ages) < 1.0
