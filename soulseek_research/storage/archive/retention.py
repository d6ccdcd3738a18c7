"""How long what is kept where: a policy in the database, what it asks for now, and its carrying out.

A month's age is the number of finished months that are newer: on the 3rd of December that of November is 0 and that of
October is 1. At the age of `queryable_months` its sealed tables may go, so that with 1 November's stays; at that of
`usernames_months` its archives lose their usernames, and at that of `archive_months` they are deleted.
"""

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

import asyncpg

from soulseek_research.storage.archive import anonymising, catalogue, deleting, expiring, layout
from soulseek_research.storage.archive.catalogue import Part, State
from soulseek_research.storage.archive.errors import ArchiveError
from soulseek_research.storage.archive.month import Month
from soulseek_research.storage.archive.work import Work
from soulseek_research.storage.database import Role


@dataclass(frozen=True)
class Policy:
    """How old a month gets before something of it goes; None is never.

    Attributes:
        queryable_months: At this age its sealed tables may be dropped.
        usernames_months: At this age its archives lose their usernames.
        archive_months: At this age its archives are deleted.
    """

    queryable_months: int = 1
    usernames_months: int | None = None
    archive_months: int | None = None

    def check(self) -> None:
        """Make sure that it can be kept.

        Raises:
            ArchiveError: It contradicts itself.
        """
        for what, months in (("usernames", self.usernames_months), ("archives", self.archive_months)):
            if months is not None and months < max(1, self.queryable_months):
                raise ArchiveError(
                    f"{what} cannot go after {months} months while tables stay for {self.queryable_months}, and not "
                    "before one: what is gone from the archives is not to be in the tables"
                )


class What(StrEnum):
    """What is done to a part."""

    DROP_TABLE = "drop table"
    REMOVE_USERNAMES = "remove usernames"
    DELETE_ARCHIVE = "delete archive"


@dataclass(frozen=True)
class Action:
    """What the policy asks for, of one part. The two that touch archives drop its table as well."""

    part: Part
    what: What
    why: str
    bytes: int  # that it frees or, of usernames, rewrites; over all places

    @property
    def final(self) -> bool:
        """Whether it destroys what is nowhere else."""
        return self.what is not What.DROP_TABLE


async def policy(connection: asyncpg.Connection) -> Policy:
    """Return the policy that is in force."""
    row = await connection.fetchrow("SELECT queryable_months, usernames_months, archive_months FROM retention")
    assert row is not None, "migration 0004 puts one row there"
    return Policy(**row)


async def set_policy(connection: asyncpg.Connection, wanted: Policy) -> None:
    """Put a policy in force.

    Raises:
        ArchiveError: It contradicts itself.
    """
    wanted.check()
    await connection.execute(
        "UPDATE retention SET queryable_months = $1, usernames_months = $2, archive_months = $3",
        wanted.queryable_months,
        wanted.usernames_months,
        wanted.archive_months,
    )


def age(month: Month, now: datetime | None = None) -> int:
    """Return how many finished months are newer; below 0 for a month that is not over."""
    running = Month.of(now or datetime.now(UTC))
    return (running.year - month.year) * 12 + running.number - month.number - 1


def droppable(month: Month, wanted: Policy, now: datetime | None = None) -> bool:
    """Whether the sealed tables of a month may be dropped, once they are archived."""
    return age(month, now) >= wanted.queryable_months


async def plan(work: Work, wanted: Policy | None = None, now: datetime | None = None) -> list[Action]:
    """Return what is to be done, also what an earlier run was killed in the midst of; nothing is changed.

    Args:
        work: The database and the destinations.
        wanted: Instead of the policy that is in force.
        now: Instead of this moment.

    Raises:
        ArchiveError: A place cannot be looked through for files that should be gone.
        StorageError: The database cannot be asked.
    """
    async with work.database.session(Role.ARCHIVIST) as connection:
        wanted = wanted or await policy(connection)
        parts = await catalogue.parts(connection)
    left = await asyncio.to_thread(_left_over, work, parts)
    actions = (_action(part, wanted, now, left.get((part.month, part.number), ())) for part in parts)
    return [action for action in actions if action is not None]


async def apply(work: Work, action: Action) -> Part:
    """Carry out one action. It is safe to repeat, whatever became of the last attempt.

    Returns:
        The part as it is then.

    Raises:
        ArchiveError: It cannot be done; what is lost is at most what was to go.
        StorageError: The database cannot be asked; run it again.
    """
    part = action.part
    if action.what is What.DROP_TABLE:
        return await deleting.delete(work, part)
    if part.table_name is not None and (part.usernames or action.what is What.DELETE_ARCHIVE):
        drop = deleting.delete if part.restored_at is None else deleting.drop_restored
        part = await drop(work, part)
    if action.what is What.REMOVE_USERNAMES:
        return await anonymising.remove_usernames(work, part)
    return await expiring.delete_archive(work, part)


def _action(part: Part, wanted: Policy, now: datetime | None, left: Collection[str]) -> Action | None:
    months = age(part.month, now)
    size = (part.file_size or 0) * len(part.places)
    if part.state is State.EXPIRED:
        if part.places:
            return Action(part, What.DELETE_ARCHIVE, "its deletion was interrupted", size)
        return Action(part, What.DELETE_ARCHIVE, f"a file of it still lies in {', '.join(left)}", 0) if left else None
    if part.state is not State.ARCHIVED:
        return None
    if wanted.archive_months is not None and months >= wanted.archive_months:
        return Action(part, What.DELETE_ARCHIVE, _newer(months, wanted.archive_months, "keep archives"), size)
    if left:
        return Action(part, What.REMOVE_USERNAMES, f"a file with usernames still lies in {', '.join(left)}", size)
    if part.usernames and wanted.usernames_months is not None and months >= wanted.usernames_months:
        return Action(part, What.REMOVE_USERNAMES, _newer(months, wanted.usernames_months, "keep usernames"), size)
    if part.table_name is not None and part.restored_at is None and droppable(part.month, wanted, now):
        why = _newer(months, wanted.queryable_months, "stay queryable")
        return Action(part, What.DROP_TABLE, why, part.table_size or 0)
    return None


def _newer(months: int, limit: int, what: str) -> str:
    return f"{months} newer month{'s are' if months != 1 else ' is'} over, and {limit} {what}"


def _left_over(work: Work, parts: Collection[Part]) -> Mapping[tuple[Month, int], list[str]]:
    """Where files lie that should be gone: with usernames of parts that have lost theirs, and of expired parts."""
    found: dict[tuple[Month, int], list[str]] = {}
    listed: dict[str, set[str]] = {}
    for part in parts:
        names = _unwanted(part)
        for destination in expiring.everywhere(work, part) if names else ():
            if destination.url not in listed:
                listed[destination.url] = set(destination.names())
            if listed[destination.url].intersection(names):
                found.setdefault((part.month, part.number), []).append(destination.url)
    return found


def _unwanted(part: Part) -> list[str]:
    if part.state is State.EXPIRED:
        return layout.all_names(part.month, part.number)
    return anonymising.names_with_usernames(part) if part.state is State.ARCHIVED and not part.usernames else []
