"""The catalogue, rebuilt from the files: each manifest says of its archive all that a row of `archives` holds."""

import asyncio
import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import asyncpg

from soulseek_research.storage import queries
from soulseek_research.storage.archive import catalogue, fingerprint, layout, locks, recording
from soulseek_research.storage.archive.catalogue import Part, State
from soulseek_research.storage.archive.destination import Destination
from soulseek_research.storage.archive.errors import ArchiveBusyError, ArchiveError
from soulseek_research.storage.archive.fingerprint import Seen
from soulseek_research.storage.archive.manifest import Manifest
from soulseek_research.storage.archive.month import Month
from soulseek_research.storage.archive.progress import Progress
from soulseek_research.storage.archive.work import Work
from soulseek_research.storage.database import Role

_HOLDS = "SELECT EXISTS (SELECT FROM searches WHERE timestamp >= $1 AND timestamp < $2)"


@dataclass(frozen=True)
class Refusal:
    """An archive that was found and is not taken into the catalogue."""

    where: str  # the file, with its place
    reason: str  # one line for people


@dataclass
class Adoption:
    """What became of the archives that were found."""

    adopted: list[Part] = field(default_factory=list)
    known: list[Part] = field(default_factory=list)  # the catalogue had them, and agrees
    refused: list[Refusal] = field(default_factory=list)


@dataclass(frozen=True)
class _Found:
    destination: Destination
    manifest: Manifest

    @property
    def where(self) -> str:
        return f"{self.destination.url}/{self.manifest.file_name}"


async def adopt(work: Work) -> Adoption:
    """Take every archive that lies in the destinations into the catalogue, after reading it for its SHA-256.

    What the catalogue knows stays as it is; a place that it did not know of is added. It may be run again at any time.

    Args:
        work: The database and the destinations.

    Raises:
        ArchiveError: A place cannot be read.
        StorageError: The database cannot be asked.
    """
    adoption = Adoption()
    found = await asyncio.to_thread(_find, work, adoption)
    progress = _Sum(work, "adopt", sum(one.manifest.rows for group in found.values() for one in group))
    for (month, number), group in sorted(found.items()):
        async with locks.month_session(work.database, month) as connection:
            rows = await catalogue.parts(connection, month)
            known = next((part for part in rows if part.number == number), None)
            await _adopt_part(connection, known, _choose(group, known, adoption), adoption, progress)
    return adoption


async def check_all(work: Work, *, deep: bool = True) -> list[tuple[Part, str, str | None]]:
    """Look at every archive in every place where the catalogue says that it is.

    Args:
        work: The database and the destinations.
        deep: Whether to read each file for its SHA-256, and not only its manifest and size.

    Returns:
        The part, the place, and what is wrong there: None when nothing is.

    Raises:
        StorageError: The database cannot be asked.
    """
    async with work.database.session(Role.ARCHIVIST) as connection:
        parts = [part for part in await catalogue.parts(connection) if part.state is State.ARCHIVED]
    progress = _Sum(work, "check", sum((part.rows or 0) * len(part.places) for part in parts))
    return [(part, place, await _problem(work, part, place, deep, progress)) for part in parts for place in part.places]


async def _problem(work: Work, part: Part, place: str, deep: bool, progress: "_Sum") -> str | None:
    def look(seen: Seen) -> None:
        [destination] = [one for one in recording.destinations_of(work.destinations, part) if one.url == place]
        recording.check_file(destination, part, deep=deep, seen=seen)

    try:
        await progress.over(look, part.rows or 0, part.file_size or 0)
    except ArchiveError as error:
        return str(error)
    return None


async def _adopt_part(
    connection: asyncpg.Connection, known: Part | None, group: list[_Found], adoption: Adoption, progress: "_Sum"
) -> None:
    described = group[0].manifest
    objection = await _objection(connection, known, described)
    if objection is not None:
        adoption.refused += [Refusal(one.where, objection) for one in group]
        progress.passed(len(group) * described.rows)
        return
    places = list(known.places) if known else []
    for one in group:
        if one.destination.url in places:
            progress.passed(described.rows)
            continue
        try:
            await progress.over(partial(_read, one), described.rows, described.file_size)
        except ArchiveBusyError:
            raise
        except ArchiveError as error:
            adoption.refused.append(Refusal(one.where, str(error)))
        else:
            places.append(one.destination.url)
    if known is not None:
        changed = await catalogue.change(connection, known, places=places) if places != list(known.places) else known
        adoption.known.append(changed)
    elif places:
        adoption.adopted.append(await _insert(connection, described, places))


def _read(one: _Found, seen: Seen) -> None:
    recording.check_file(one.destination, one.manifest, deep=True, seen=seen)


async def _objection(connection: asyncpg.Connection, known: Part | None, found: Manifest) -> str | None:
    """Why an archive does not belong in this catalogue, if it does not."""
    if known is not None:
        if known.state is State.EXPIRED:
            return "retention has deleted this part, and the file is left over: run `soulseek-research retain`"
        if known.state is not State.ARCHIVED:
            return (
                f"{known.name} is still on its way out of the database ({known.state}), perhaps the same searches: "
                "keep one of the two (move this file away, and archive that month)"
            )
        different = recording.differences(known, found)
        return (
            f"the catalogue has another file for this part, different in {', '.join(different)}" if different else None
        )
    # A database that was restored from a backup: sealed and archived, its rows would be there twice.
    month = found.month
    if await connection.fetchval(_HOLDS, month.start, month.end):
        return (
            f"the database holds searches of {month} itself, perhaps the same ones: keep one of the two (move this "
            f"file away and archive the month, or drop the partition searches_{month.year:04}_{month.number:02})"
        )
    return None


async def _insert(connection: asyncpg.Connection, found: Manifest, places: list[str]) -> Part:
    await connection.execute(
        queries.load("adopt_part"),
        found.month.first_day,
        found.part,
        found.format,
        found.file_name,
        places,
        found.rows,
        found.file_size,
        found.sha256,
        found.checksum,
        json.dumps(found.tally.to_json()),
        found.first_timestamp,
        found.last_timestamp,
        list(found.key_ids),
        found.usernames,
        found.table_size,
        json.dumps(found.column_sizes) if found.column_sizes is not None else None,
        found.software,
        found.sealed_at,
        found.verified_at,
        found.archived_at,
    )
    return await catalogue.part(connection, found.month, found.part)


class _Sum:
    """Progress over many files."""

    def __init__(self, work: Work, step: str, rows_expected: int) -> None:
        self._work = work
        self._step = step
        self._expected = rows_expected
        self._rows = 0
        self._read = 0

    async def over(self, look: Callable[[Seen], None], rows: int, size: int) -> None:
        """Look at one more file, whose rows count in proportion to what has been read of it."""
        try:
            await fingerprint.beside(look, lambda seen: self._tell(rows * seen // max(size, 1), seen))
        finally:
            self._rows += rows
            self._read += size
        self._tell(0, 0)

    def passed(self, rows: int) -> None:
        """Leave out rows that were expected."""
        self._rows += rows
        self._tell(0, 0)

    def _tell(self, rows: int, read: int) -> None:
        self._work.report(Progress(self._step, self._rows + rows, self._expected, self._read + read))


def _find(work: Work, adoption: Adoption) -> dict[tuple[Month, int], list[_Found]]:
    """All archives by month and part; the manifests that cannot be read are refused."""
    found: dict[tuple[Month, int], list[_Found]] = defaultdict(list)
    for destination in work.destinations:
        for name in destination.names():
            file_name = name.removesuffix(layout.MANIFEST_SUFFIX)
            if file_name == name or layout.parse(file_name) is None:
                continue
            try:
                manifest = recording.read_manifest(destination, file_name)
            except ArchiveError as error:
                adoption.refused.append(Refusal(f"{destination.url}/{file_name}", str(error)))
                continue
            if manifest is not None:
                found[manifest.month, manifest.part].append(_Found(destination, manifest))
    return found


def _choose(group: list[_Found], known: Part | None, adoption: Adoption) -> list[_Found]:
    """Of files that all claim to be one part, those that are the same; the others are refused.

    What the catalogue knows goes first, then what has no usernames any more: retention was ended before it deleted the
    file that still has them.
    """
    agreeing = [one for one in group if known is not None and not recording.differences(known, one.manifest)]
    first = min(agreeing or group, key=lambda one: one.manifest.usernames)
    chosen = []
    for one in group:
        different = recording.differences(one.manifest, first.manifest)
        if not different:
            chosen.append(one)
        elif one.manifest.usernames and not first.manifest.usernames:
            reason = f"{first.where} is the same part without usernames: `soulseek-research retain` removes this one"
            adoption.refused.append(Refusal(one.where, reason))
        else:
            reason = f"{first.where} is the same part and differs in {', '.join(different)}: move the wrong one away"
            adoption.refused.append(Refusal(one.where, reason))
    return chosen
