"""A finished month of realistic searches, quickly: a block is heard as a collector hears, and varied as often as asked.

The people ask as `simulation.searchers` lets them, at the rate of one ordinary node, and a real collector's intake
pseudonymises and cleans. That costs some 40 seconds a million, so a longer month goes on with variations of the block:
later, with tickets that have counted on, and each letter exchanged for another of its script. An exchange of letters
changes neither the length of a query, nor how often it is asked in its block, nor how well it compresses; but it is
another query, so that of a day's queries as many are unique as among real people.
"""

import functools
import io
import random
import tempfile
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

import asyncpg
import polars as pl

from collectors import keys, pseudonym
from collectors.counts import Counts
from collectors.intake import Intake
from collectors.search import Source
from soulseek_research.simulation import searchers
from soulseek_research.storage.archive.month import Month

# About 47 searches a second, as one ordinary node hears.
PEOPLE = 31_000
CLIENT_ID = "node"
COLUMNS = ("timestamp", "ticket", "source", "flags", "client_id", "username", "query")

_SCHEMA = {
    "milliseconds": pl.Int64,
    "ticket": pl.Int64,
    "source": pl.Int16,
    "flags": pl.Int16,
    "username": pl.String,
    "query": pl.String,
}
_TICKETS = 1 << 32
# What a client has counted on from one block to the next; those that begin at 2 in each session do so again.
_TICKETS_LATER = 1009
_COUNTED_FROM_TWO = 100_000


@dataclass(frozen=True)
class Block:
    """What was heard in a stretch of time.

    Attributes:
        searches: In order of time, `milliseconds` since the beginning.
        milliseconds: How long the stretch is.
    """

    searches: pl.DataFrame
    milliseconds: int


def finished() -> Month:
    """The last month that has been over for more than a week, so that nobody waits for a collector's last searches."""
    return Month.of(datetime.now(UTC) - timedelta(days=8)).plus(-1)


@functools.cache
def block(searches: int, people: int = PEOPLE) -> Block:
    """About so many searches; the same ones each time but for the pseudonyms, whose key is new in each process."""
    with tempfile.TemporaryDirectory() as folder:
        ring = keys.KeyRing(Path(folder) / "keys")
        key = ring.new()
        names = pseudonym.Pseudonymiser(ring, [pseudonym.Epoch(key.key_id, key.fingerprint, key.algorithm)])
        intake = Intake(names, Counts(), own_username=None, buffer_limit=searches, buffer_max_bytes=1 << 40)
        seconds = 0.0
        for search in islice(searchers.stream(1, people), searches):
            seconds = search.at_seconds
            intake.hear(Source.DISTRIBUTED, search.username, search.ticket, search.query, now=seconds)
    return Block(pl.DataFrame(intake.take(), _SCHEMA, orient="row"), int(seconds * 1000) + 1)


def rows(month: Month, number: int, block: Block) -> Iterator[pl.DataFrame]:
    """So many searches of a month, by COLUMNS, a block at a time and in order of time.

    They fill the beginning of the month at the block's own pace, and where that is not enough all of it, faster.
    """
    copies = -(-number // len(block.searches))
    length = int((month.end - month.start).total_seconds() * 1000)
    pace = min(1.0, length / (copies * block.milliseconds))
    begin = int(month.start.timestamp() * 1000)
    alphabets = _alphabets(block)
    for copy in range(copies):
        later = copy * block.milliseconds
        frame = block.searches.head(number - copy * len(block.searches))
        yield frame.select(
            timestamp=(begin + ((pl.col("milliseconds") + later) * pace).cast(pl.Int64)).cast(pl.Datetime("ms", "UTC")),
            ticket=_counted_on(copy),
            source="source",
            flags="flags",
            client_id=pl.lit(CLIENT_ID),
            username="username",
            query=_in_other_letters(frame["query"], alphabets, copy),
        )


async def fill(connection: asyncpg.Connection, month: Month, number: int, block: Block) -> None:
    """Store so many searches of a month, in its partition."""
    await connection.execute("SELECT ensure_partition($1)", month.first_day)
    for frame in rows(month, number, block):
        file = io.BytesIO()
        frame.write_csv(file, include_header=False, datetime_format="%Y-%m-%dT%H:%M:%S%.3fZ")
        file.seek(0)
        await connection.copy_to_table("searches", source=file, columns=COLUMNS, format="csv")


async def unique_share(connection: asyncpg.Connection, month: Month) -> float:
    """The share of the queries of the month's first day that are unique, as `test_searchers.py` counts them."""
    share = await connection.fetchval(
        "SELECT count(DISTINCT query)::float8 / count(*) FROM searches "
        "WHERE timestamp >= $1 AND timestamp < $1 + interval '1 day'",
        month.start,
    )
    return float(share)


def _counted_on(copy: int) -> pl.Expr:
    ticket = pl.col("ticket")
    return pl.when(ticket < _COUNTED_FROM_TWO).then(ticket).otherwise((ticket + copy * _TICKETS_LATER) % _TICKETS)


def _alphabets(block: Block) -> list[list[str]]:
    """The letters of the block, those together that can stand for each other: of a script, a case and a length."""
    alphabets = defaultdict(list)
    for letter in sorted(set().union(*block.searches["query"])):
        if letter.isalpha():
            script = unicodedata.name(letter, "?").split()[0]
            alphabets[script, unicodedata.category(letter), len(letter.encode())].append(letter)
    return list(alphabets.values())


def _in_other_letters(queries: pl.Series, alphabets: list[list[str]], copy: int) -> pl.Series:
    if not copy:
        return queries
    dice = random.Random(copy)
    table: dict[int, str] = {}
    for alphabet in alphabets:
        table |= dict(zip(map(ord, alphabet), dice.sample(alphabet, len(alphabet)), strict=True))
    # No query holds a line end: cleaning replaces them.
    return pl.Series("query", "\n".join(queries).translate(table).split("\n"))
