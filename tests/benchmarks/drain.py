"""How fast a full spool is brought to the database, against COPY of the same rows by itself.

Each run is a process of its own:

    python -m tests.benchmarks.drain writer|copy SPOOL DATABASE_URL

prints how many seconds it took.
"""

import asyncio
import dataclasses
import datetime as dt
import functools
import json
import shutil
import sys
import time
from itertools import islice
from pathlib import Path

import asyncpg

from collectors import coverage, keys, pseudonym
from collectors.counts import Counts
from collectors.intake import Intake
from collectors.search import Row, Source
from collectors.spool import Spool, SpoolReader
from collectors.writer import Writer
from soulseek_research.simulation import searchers
from soulseek_research.storage import database
from tests.benchmarks import measure
from tests.benchmarks.measure import Figure
from tests.benchmarks.store import Store

SHARE = 0.8
CLIENT_ID = "bench"
COLUMNS = ("timestamp", "ticket", "source", "flags", "client_id", "username", "query")
PEOPLE = 30_000
# A flush a second at the rate that a collector is for.
CHUNK_SEARCHES = 100
FOREVER_SECONDS = 600.0


@dataclasses.dataclass(frozen=True)
class Scale:
    """How much waits in the spool."""

    runs: int = 3
    searches: int = 300_000


async def figures(store: Store, scale: Scale) -> list[Figure]:
    """Both by turns."""
    spool = store.folder() / "spool"
    fill(spool, scale.searches)
    ours: list[float] = []
    bare: list[float] = []
    for _ in range(scale.runs):
        ours.append(await _run("writer", store, spool, scale.searches))
        bare.append(await _run("copy", store, spool, scale.searches))
    figure = measure.median("drain of a full spool", ours, "rows/s")
    reference = measure.median("COPY of the same rows from memory", bare, "rows/s")
    return [
        measure.at_least(figure, figure.value / reference.value, SHARE, f"{SHARE:.0%} of COPY from memory"),
        reference,
    ]


def fill(path: Path, searches: int) -> None:
    """A spool as a collector leaves it that has heard a hundred searches a second without a database."""
    began = time.time() - searches / CHUNK_SEARCHES
    heard = 0
    counts = Counts()
    ring = keys.KeyRing(path.parent / "keys")
    key = ring.new()
    names = pseudonym.Pseudonymiser(ring, [pseudonym.Epoch(key.key_id, key.fingerprint, key.algorithm)])
    intake = Intake(names, counts, own_username=None, clock=lambda: began + heard / CHUNK_SEARCHES)
    ledger = coverage.Ledger(counts, names, now=began)
    ledger.place("child", 1, "root", began)
    with Spool(path) as spool:
        spool.open_segment()
        for search in islice(searchers.stream(1, PEOPLE, hostile_share=0), searches):
            now = began + heard / CHUNK_SEARCHES
            ledger.heard(now)
            # A ticket of its own, so that the few that repeat within the minute are kept too.
            intake.hear(Source.DISTRIBUTED, search.username, heard, search.query)
            heard += 1
            if heard % CHUNK_SEARCHES == 0 or heard == searches:
                snapshot = ledger.snapshot(now)
                spool.append(intake.take(), snapshot, int(now * 1000))
                ledger.spooled(snapshot)


async def _run(way: str, store: Store, spool: Path, number: int) -> float:
    copy = store.folder() / spool.name
    shutil.copy(spool, copy)
    async with store.searches() as searches:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", __name__, way, str(copy), searches.dsn, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await process.communicate()
        if process.returncode:
            raise RuntimeError(f"it ended with {process.returncode}")
        await searches.assert_each_once(0, number)
    copy.unlink()
    return number / float(json.loads(output))


async def drain(path: Path, dsn: str) -> float:
    """Empties the spool as a collector does whose database is back: from being connected to the last commit."""
    writer = Writer(
        functools.partial(database.connect, dsn, role=database.Role.COLLECTOR),
        CLIENT_ID,
        path,
        first_segment=None,
        new_segment=_nothing,
    )
    with Spool(path):
        writing = asyncio.create_task(writer.run())
        while not (writer.state.connected or writer.state.error or writing.done()):  # noqa: ASYNC110 - once
            await asyncio.sleep(0.001)
        if writer.state.error:
            raise RuntimeError(writer.state.error)
        began = time.perf_counter()
        await writer.close(FOREVER_SECONDS)
        seconds = time.perf_counter() - began
        await writing
    return seconds


async def copy_from_memory(path: Path, dsn: str) -> float:
    """The same rows with asyncpg's `copy_records_to_table` and nothing else."""
    records = [
        (dt.datetime.fromtimestamp(timestamp_ms / 1000, dt.UTC), ticket, source, flags, CLIENT_ID, username, query)
        for timestamp_ms, ticket, source, flags, username, query in _rows(path)
    ]
    connection = await asyncpg.connect(dsn)
    try:
        days = [records[0][0], records[-1][0]]
        await connection.execute("SELECT ensure_partition(day::date) FROM unnest($1::timestamptz[]) day", days)
        began = time.perf_counter()
        await connection.copy_records_to_table("searches", records=records, columns=COLUMNS)
        return time.perf_counter() - began
    finally:
        await connection.close()


def _rows(path: Path) -> list[Row]:
    rows: list[Row] = []
    with SpoolReader(path) as reader:
        segment = reader.segments()[0]
        position = 0
        while position < segment.last_position:
            chunks = reader.read(segment.segment_id, position, 100_000)
            rows += [row for chunk in chunks for row in chunk.rows]
            position = chunks[-1].position
    return rows


async def _nothing() -> None:
    """Nobody appends."""


if __name__ == "__main__":
    what, spool_path, database_url = sys.argv[1:]
    work = {"writer": drain, "copy": copy_from_memory}[what]
    print(json.dumps(asyncio.run(work(Path(spool_path), database_url))))  # noqa: T201
