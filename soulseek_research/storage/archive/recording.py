"""The last step on the way out of the database: the part counts as archived once its manifest stands beside it."""

import asyncio
import importlib.metadata
import time
from collections.abc import Iterable

import asyncpg

from soulseek_research.storage import queries
from soulseek_research.storage.archive import catalogue, fingerprint, layout, locks, manifest, places
from soulseek_research.storage.archive.catalogue import Part, State
from soulseek_research.storage.archive.destination import Destination
from soulseek_research.storage.archive.errors import ArchiveError
from soulseek_research.storage.archive.fingerprint import Seen
from soulseek_research.storage.archive.manifest import Gap, Manifest, Stretch
from soulseek_research.storage.archive.month import Month
from soulseek_research.storage.archive.progress import Progress
from soulseek_research.storage.archive.work import Work


async def record(work: Work, part: Part) -> Part:
    """Write a verified part's manifest to each of its places, and enter it as archived.

    Of a part that is archived, the manifests that are missing are written again.

    The row says so only once all manifests are there: both happen in one transaction, which a kill undoes.

    Args:
        work: The database and the destinations.
        part: What `verifying.verify` returned.

    Returns:
        The part as it is then.

    Raises:
        ArchiveError: It has not been verified, or a file or manifest in a place is not what the catalogue says.
        StorageError: The database cannot be asked.
    """
    async with locks.month_session(work.database, part.month) as connection, connection.transaction():
        began = time.monotonic()
        part = await catalogue.part(connection, part.month, part.number)
        if part.state not in (State.VERIFIED, State.ARCHIVED):
            raise ArchiveError(f"{part.name} is {part.state}: it is recorded once it has been verified")
        destinations = destinations_of(work.destinations, part)
        missing = await asyncio.to_thread(_without_manifest, destinations, part)
        if part.state is State.ARCHIVED and not missing:
            return part
        archived = await _archived(connection, part)
        one = await _manifest(connection, archived)
        for destination in destinations if part.state is State.VERIFIED else missing:
            await asyncio.to_thread(write_manifest, destination, one)
        work.report(Progress("record", part.rows or 0, part.rows, part.file_size or 0))
        return await catalogue.change(connection, archived, seconds=part.seconds + time.monotonic() - began)


def destinations_of(destinations: Iterable[Destination], part: Part) -> list[Destination]:
    """The destinations that hold a part, also those which the settings no longer name.

    Raises:
        ArchiveError: One of them cannot be used.
    """
    known = {destination.url: destination for destination in destinations}
    return [known.get(place) or places.open_destination(place) for place in part.places]


def read_manifest(destination: Destination, file_name: str) -> Manifest | None:
    """Return the manifest of an archive; None when it has none. Blocks.

    Raises:
        ArchiveError: It is damaged, or of another archive.
    """
    name = layout.manifest_name(file_name)
    if destination.size(name) is None:
        return None
    found = manifest.load(destination.read(name), f"{destination.url}/{name}")
    if found.file_name != file_name:
        raise ArchiveError(f"{destination.url}/{name} is the manifest of {found.file_name}: the files were renamed")
    return found


def write_manifest(destination: Destination, one: Manifest) -> None:
    """Write the manifest of an archive, which makes the file count. Blocks.

    Raises:
        ArchiveError: It cannot be written.
    """
    destination.write(layout.manifest_name(one.file_name), manifest.dump(one))


def check_file(
    destination: Destination, one: Part | Manifest, *, deep: bool = False, seen: Seen = lambda _: None
) -> Manifest:
    """Make sure that an archive lies in a place as the catalogue, or its manifest, says. Blocks.

    Args:
        destination: The place.
        one: What is expected to lie there.
        deep: Whether to read the file, for its SHA-256; otherwise it is its manifest and its size that count.
        seen: Told how much has been read.

    Returns:
        Its manifest, as it was found.

    Raises:
        ArchiveError: It does not, or cannot be read; the line names the file.
        ArchiveBusyError: The place cannot be reached now.
    """
    month, number, name = _named(one)
    if name is None:
        raise ArchiveError(f"part {number} of {month} is in no file")
    where = f"{destination.url}/{name}"
    found = read_manifest(destination, name)
    if found is None:
        raise ArchiveError(f"{where} has no manifest: without one the file does not count")
    different = differences(one, found)
    if different:
        raise ArchiveError(f"{where}: its manifest differs in {', '.join(different)} from what is on record")
    _check_size(destination, name, found.file_size)
    if deep and fingerprint.sha256(destination, name, seen) != found.sha256:
        raise ArchiveError(f"{where} was changed or is damaged: its SHA-256 is not the one on record")
    return found


def differences(one: Part | Manifest, other: Manifest) -> list[str]:
    """In what a part and a manifest, or two manifests, do not speak of the same file; empty when they do."""
    mine, theirs = _identity(one), _identity(other)
    return [name for name in mine if mine[name] != theirs[name]]


def _identity(one: Part | Manifest) -> dict[str, object]:
    month, part, name = _named(one)
    return {
        "month": month,
        "part": part,
        "name": name,
        "size": one.file_size,
        "SHA-256": one.sha256,
        "rows": one.rows,
        "tally": one.tally,
        "checksum": one.checksum,
        "usernames": one.usernames,
    }


def _named(one: Part | Manifest) -> tuple[Month, int, str | None]:
    return (one.month, one.number, one.file_path) if isinstance(one, Part) else (one.month, one.part, one.file_name)


def _without_manifest(destinations: list[Destination], part: Part) -> list[Destination]:
    """The places where the file is and its manifest is not."""
    assert part.file_path is not None, "it was exported"
    assert part.file_size is not None, "it was exported"
    missing = []
    for destination in destinations:
        _check_size(destination, part.file_path, part.file_size)
        found = read_manifest(destination, part.file_path)
        if found is None:
            missing.append(destination)
        elif different := differences(part, found):
            raise ArchiveError(
                f"{destination.url}/{part.file_path} has a manifest that differs in {', '.join(different)} "
                "from the catalogue: find out which is right, and move the other away"
            )
    return missing


def _check_size(destination: Destination, name: str, expected: int) -> None:
    size = destination.size(name)
    if size is None:
        raise ArchiveError(f"{destination.url}/{name} is missing")
    if size != expected:
        raise ArchiveError(
            f"{destination.url}/{name} was changed or cut off: it has {size} bytes instead of {expected}"
        )


async def _archived(connection: asyncpg.Connection, part: Part) -> Part:
    if part.state is State.ARCHIVED:
        return part
    software = f"soulseek-research {importlib.metadata.version('soulseek-research')}"
    now = await connection.fetchval("SELECT now()")
    return await catalogue.change(connection, part, state=State.ARCHIVED, archived_at=now, software=software)


async def _manifest(connection: asyncpg.Connection, part: Part) -> Manifest:
    month = (part.month.start, part.month.end)
    coverage = await connection.fetch(queries.load("coverage_of_month"), *month)
    gaps = await connection.fetch(queries.load("gaps_of_month"), *month)
    assert part.format is not None, "it was exported"
    assert part.file_path is not None, "it was exported"
    assert part.file_size is not None, "it was exported"
    assert part.sha256 is not None, "it was exported"
    assert part.tally is not None, "it was exported"
    assert part.checksum is not None, "it was exported"
    assert part.archived_at is not None, "it is recorded now"
    return Manifest(
        month=part.month,
        part=part.number,
        format=part.format,
        file_name=part.file_path,
        file_size=part.file_size,
        sha256=part.sha256,
        rows=part.tally.rows,
        tally=part.tally,
        checksum=part.checksum,
        first_timestamp=part.first_timestamp,
        last_timestamp=part.last_timestamp,
        key_ids=tuple(part.key_ids or ()),
        usernames=part.usernames,
        coverage=tuple(Stretch(**stretch) for stretch in coverage),
        gaps=tuple(Gap(**gap) for gap in gaps),
        software=part.software or "soulseek-research",
        postgresql=str(await connection.fetchval("SHOW server_version")),
        sealed_at=part.sealed_at,
        verified_at=part.verified_at,
        archived_at=part.archived_at,
        table_size=part.table_size,
        column_sizes=part.column_sizes,
    )
