"""What the database has of each spool segment, against what the spool believes; after every connection, and at start.

The database is right: a segment's position there moved in the transaction that stored the searches. Where its digest
shows that the two speak of different chunks (a spool that was rolled back, or copied with its machine), nothing of that
segment is sent any more, because nobody can say what is already there.
"""

import dataclasses
import logging
import time
import uuid
from typing import NamedTuple

import asyncpg

from collectors.assignment import Assignment
from collectors.backlog import Backlog, Batch, Cursor, Gap
from collectors.delivery import Delivery
from collectors.spool import SegmentState, SpoolReader

logger = logging.getLogger(__name__)

DIVERGED = "spool diverged"
SPOOL_LOST = "spool lost"
PRUNED = "pruned from the spool"

MISSING = (
    "SELECT segment_id, (extract(epoch FROM committed_at) * 1000)::bigint AS since_ms, committed_position, "
    "spooled_position FROM missing_segments($1, $2)"
)
_COUNT_ROWS = 20_000


class Committed(NamedTuple):
    """What the database has of a segment."""

    position: int
    digest: bytes | None
    ended: str | None


@dataclasses.dataclass(slots=True)
class Finding:
    """How one segment goes on.

    Attributes:
        acknowledge: what the spool should note as being in this database; None where it knows.
        diverged: the spool and the database tell different stories.
        pruned: chunks after the committed one that neither has any more.
    """

    segment: SegmentState
    cursor: Cursor
    acknowledge: int | None = None
    diverged: str | None = None
    pruned: int = 0


async def reconcile(
    connection: asyncpg.Connection, delivery: Delivery, database_id: uuid.UUID, assignment: Assignment
) -> set[uuid.UUID]:
    """Finds out where to go on in each segment, and writes down what can never be completed.

    Returns:
        The segments that processes before this one have left.
    """
    backlog = assignment.backlog
    held = await backlog.ask(lambda reader: [segment.segment_id for segment in reader.segments()])
    here = await committed(connection, assignment.client_id, held)
    findings = await backlog.ask(
        lambda reader: examine(reader, here, database_id, resend_all=assignment.resend_all),
    )
    first = assignment.first_segment
    older = held[: held.index(first)] if first in held else held
    if any(finding.diverged and finding.segment.segment_id not in older for finding in findings):
        await assignment.new_segment()  # what is heard from now on has a segment that nobody else knows
    for finding in findings:
        await _settle(finding, delivery, database_id, backlog)
    for segment_id, gap in (await missing(connection, assignment.client_id, held)).items():
        logger.error("the spool does not hold segment %s, which the database waits for: it was replaced", segment_id)
        await delivery.write_off(segment_id, gap, "lost")
    backlog.rewind({finding.segment.segment_id: finding.cursor for finding in findings})
    return set(older)


async def _settle(finding: Finding, delivery: Delivery, database_id: uuid.UUID, backlog: Backlog) -> None:
    segment = finding.segment
    if finding.diverged is not None:
        gap = (await backlog.ask(lambda reader: unsent(reader, segment)))._replace(detail=finding.diverged)
        logger.error("spool segment %s is not sent any further: %s", segment.segment_id, finding.diverged)
        await delivery.write_off(segment.segment_id, gap, "diverged")
    if finding.pruned:
        await _skip_pruned(finding, delivery, backlog)
    if finding.cursor.after < segment.acknowledged_position and not finding.cursor.closed:
        logger.warning(
            "the database has less of segment %s than it once had (a restored backup?): sending again from chunk %d",
            segment.segment_id,
            finding.cursor.after + 1,
        )
    if finding.acknowledge is not None:
        position = finding.acknowledge
        await backlog.acknowledge(segment.segment_id, position, database_id)


async def _skip_pruned(finding: Finding, delivery: Delivery, backlog: Backlog) -> None:
    """Moves the database over chunks that neither side has any more; the gap is recorded in the same transaction."""
    segment, until = finding.segment, finding.cursor.after
    digest = await backlog.ask(lambda reader: reader.digest(segment.segment_id, until))
    detail = (
        f"chunks {until - finding.pruned + 1} to {until}: the database has lost them, and the spool no longer has them"
    )
    gap = Gap(PRUNED, segment.opened_at_ms, int(time.time() * 1000), None, detail)
    await delivery.store(
        Batch(
            segment.segment_id, segment.opened_at_ms, finding.cursor.committed, until, digest or b"",
            segment.last_position, gaps=[gap],
        )
    )  # fmt: skip
    finding.cursor.committed = until


async def missing(connection: asyncpg.Connection, client_id: str, held: list[uuid.UUID]) -> dict[uuid.UUID, Gap]:
    """The segments that the database waits for and the spool does not hold: it was replaced."""
    rows = await connection.fetch(MISSING, client_id, held)
    now = int(time.time() * 1000)
    gaps = {}
    for row in rows:
        waiting = row["spooled_position"] - row["committed_position"]
        detail = f"when it was last heard of, {waiting} chunks of it were waiting in the spool"
        gaps[row["segment_id"]] = Gap(SPOOL_LOST, row["since_ms"], now, None, detail)
    return gaps


async def committed(
    connection: asyncpg.Connection, client_id: str, segments: list[uuid.UUID]
) -> dict[uuid.UUID, Committed]:
    """Asks the database."""
    rows = await connection.fetch("SELECT * FROM segment_positions($1, $2)", client_id, segments)
    return {
        row["segment_id"]: Committed(row["committed_position"], row["committed_digest"], row["ended"]) for row in rows
    }


def examine(
    reader: SpoolReader, here: dict[uuid.UUID, Committed], database_id: uuid.UUID, *, resend_all: bool = False
) -> list[Finding]:
    """Compares all segments of the spool; runs in the reader's thread.

    Args:
        reader: the spool.
        here: what this database has of its segments.
        database_id: this database's own name for itself.
        resend_all: also send what another database has acknowledged.
    """
    findings = []
    for segment in reader.segments():
        theirs = here.get(segment.segment_id, Committed(0, None, None))
        ours = reader.digest(segment.segment_id, theirs.position) if theirs.position else None
        findings.append(compare(segment, theirs, ours, database_id, resend_all=resend_all))
    return findings


def compare(
    segment: SegmentState, theirs: Committed, ours: bytes | None, database_id: uuid.UUID, *, resend_all: bool = False
) -> Finding:
    """Compares one segment.

    Args:
        segment: what the spool knows.
        theirs: what the database has.
        ours: the spool's digest of the chunk that the database committed last; None when it was pruned.
        database_id: this database's own name for itself.
        resend_all: also send what another database has acknowledged.
    """
    position, last = theirs.position, segment.last_position
    if theirs.ended == "diverged":
        return Finding(segment, Cursor(position, last, closed=True), last)
    if position > last:
        detail = f"the database has it up to chunk {position}, the spool only up to {last}: the spool was rolled back"
        return Finding(segment, Cursor(position, last, closed=True), last, diverged=detail)
    if ours is not None and ours != theirs.digest:
        detail = f"chunk {position} is another one here than in the database: the spool was rolled back or copied"
        return Finding(segment, Cursor(position, last, closed=True), last, diverged=detail)
    known_elsewhere = segment.database_id not in (None, database_id) and not resend_all
    if known_elsewhere and segment.acknowledged_position >= position:
        return Finding(segment, Cursor(position, segment.acknowledged_position))
    after = max(position, segment.pruned_position)
    same = after == segment.acknowledged_position and segment.database_id == database_id
    return Finding(
        segment, Cursor(position, after), None if same else after, pruned=max(0, segment.pruned_position - position)
    )


def unsent(reader: SpoolReader, segment: SegmentState) -> Gap:
    """What a segment holds that no database has acknowledged, as the gap that it leaves; in the reader's thread."""
    now = int(time.time() * 1000)
    searches = 0
    position = max(segment.acknowledged_position, segment.pruned_position)
    since, until = _last_heard(reader, segment) or segment.opened_at_ms, None
    while chunks := reader.read(segment.segment_id, position, _COUNT_ROWS):
        since = since if until else chunks[0].heard_until_ms
        until, position = chunks[-1].heard_until_ms, chunks[-1].position
        searches += sum(chunk.row_count for chunk in chunks)
    # With nothing unsent, what is missing was heard after the last chunk, in a past that this spool does not know.
    return Gap(DIVERGED, since, until or now, searches or None)


def _last_heard(reader: SpoolReader, segment: SegmentState) -> int | None:
    if segment.last_position <= segment.pruned_position:
        return None
    return reader.read(segment.segment_id, segment.last_position - 1, 1)[0].heard_until_ms
