"""An archive that is old enough loses its usernames: a new one without them is proven and takes its place.

In this order, so that a run that is killed at any point is finished by the next, and a sound file is there at any time:
the new file stands in every place, is read back, gets its manifest; the catalogue names it; the old manifest goes, and
the old file.
"""

import asyncio
import dataclasses
from collections.abc import Sequence
from datetime import UTC, datetime

import pyarrow as pa

from soulseek_research.storage.archive import (
    catalogue,
    expiring,
    fingerprint,
    formats,
    layout,
    locks,
    recording,
    verifying,
)
from soulseek_research.storage.archive.catalogue import Part, State
from soulseek_research.storage.archive.checksum import Measured
from soulseek_research.storage.archive.destination import Destination
from soulseek_research.storage.archive.errors import ArchiveBusyError, ArchiveError
from soulseek_research.storage.archive.fingerprint import Seen
from soulseek_research.storage.archive.manifest import Manifest
from soulseek_research.storage.archive.progress import Progress
from soulseek_research.storage.archive.rows import COLUMNS, SCHEMA
from soulseek_research.storage.archive.settings import Format
from soulseek_research.storage.archive.work import Work
from soulseek_research.storage.archive.written import Written

_USERNAME = COLUMNS.index("username")
_COPY_BYTES = 1 << 20


async def remove_usernames(work: Work, part: Part) -> Part:
    """Remove the usernames from the files of a part, in every place.

    Args:
        work: The database and the destinations.
        part: An archived part without a table.

    Returns:
        The part as it is then.

    Raises:
        ArchiveError: It is not archived, no copy of its file is sound, or the new one cannot be written.
        ArchiveBusyError: It has a table again, another run works on the month, or a place cannot be reached now.
        StorageError: The database cannot be asked.
    """
    async with locks.month_session(work.database, part.month) as connection:
        part = await catalogue.part(connection, part.month, part.number)
        if part.state is not State.ARCHIVED:
            raise ArchiveError(f"{part.name} is not archived but {part.state}: its usernames stay")
        if part.table_name is not None and part.usernames:
            raise ArchiveBusyError(f"{part.name} was restored meanwhile: its usernames stay, try again")
        destinations = recording.destinations_of(work.destinations, part)
        if part.usernames:

            def show(rows: int) -> None:
                work.report(Progress("anonymise", rows, part.rows, 0))

            made = await fingerprint.beside(lambda seen: _replace(destinations, part, seen), show)
            part = await catalogue.change(
                connection,
                part,
                file_path=made.file_name,
                file_size=made.file_size,
                sha256=made.sha256,
                checksum=made.checksum,
                tally=made.tally.to_json(),
                key_ids=list(made.key_ids),
                usernames=False,
                column_sizes=made.column_sizes,
                verified_at=made.verified_at,
            )
        places = expiring.everywhere(work, part)
        await asyncio.to_thread(expiring.delete_files, places, part, names_with_usernames(part))
        return part


def names_with_usernames(part: Part) -> list[str]:
    """What files of a part are called that hold usernames; an attempt in another format may have left one."""
    return [layout.file_name(part.month, part.number, form) for form in Format]


def _replace(destinations: Sequence[Destination], part: Part, seen: Seen) -> Manifest:
    """Write the new file and its manifest in every place; returns the manifest."""
    source, old = _sound(destinations, part)
    first, *others = destinations
    new = _write(source, first, old, seen)
    for other in others:
        with first.open(new.file_name) as file, other.create(new.file_name) as sink:
            while data := file.read(_COPY_BYTES):
                sink.write(data)
    for destination in destinations:
        _check(destination, new, part)
    with first.open(new.file_name) as file:
        sizes = formats.column_sizes(file, new.format)
    new = dataclasses.replace(new, column_sizes=sizes, verified_at=datetime.now(UTC))
    for destination in destinations:
        recording.write_manifest(destination, new)
    return new


def _sound(destinations: Sequence[Destination], part: Part) -> tuple[Destination, Manifest]:
    """The first place whose file is as the catalogue says, and its manifest there."""
    problems = []
    for destination in destinations:
        try:
            return destination, recording.check_file(destination, part, deep=True)
        except ArchiveBusyError:
            raise
        except ArchiveError as error:
            problems.append(str(error))
    raise ArchiveError("; ".join(problems) or f"no copy of the archive of {part.name} is known")


def _write(source: Destination, target: Destination, old: Manifest, seen: Seen) -> Manifest:
    """Write the new file in one place; returns what its manifest is to say."""
    name = layout.file_name(old.month, old.part, old.format, usernames=False)
    before, after = Measured(), Measured()
    with source.open(old.file_name) as file, target.create(name) as writer:
        sink = Written([writer])
        with formats.open_writer(sink, old.format) as anew:
            for table in formats.batches(file, old.format):
                nameless = table.set_column(_USERNAME, SCHEMA.field(_USERNAME), pa.repeat("", table.num_rows))
                before.add(table)
                after.add(nameless)
                anew.write(nameless)
                seen(before.tally.rows)
        # Inside: what is not as it should be never gets its name.
        if before.checksum_text != old.checksum:
            raise ArchiveError(f"{source.url}/{old.file_name} was not read as it was written: its usernames stay")
        if after.tally != dataclasses.replace(old.tally, username_bytes=0):
            raise ArchiveError(f"{source.url}/{old.file_name} would differ in more than usernames: they stay")
    return dataclasses.replace(
        old,
        file_name=name,
        file_size=sink.size,
        sha256=sink.sha256,
        checksum=after.checksum_text,
        tally=after.tally,
        key_ids=(),
        usernames=False,
    )


def _check(destination: Destination, new: Manifest, part: Part) -> None:
    """Read a new file back, from its first row to its last."""
    try:
        measured = verifying.measure(destination, dataclasses.replace(part, file_path=new.file_name, sha256=new.sha256))
    except ArchiveBusyError:
        raise
    except ArchiveError as error:
        raise ArchiveError(f"{destination.url}/{new.file_name}: {error}: the old file stays") from error
    if measured.checksum_text != new.checksum or measured.tally != new.tally:
        raise ArchiveError(f"{destination.url}/{new.file_name} is not as it was written: the old file stays")
