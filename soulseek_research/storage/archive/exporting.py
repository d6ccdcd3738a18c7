"""A sealed table becomes a file in every place: one COPY, compressed as it comes, never on disk uncompressed."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import asyncpg
import polars as pl
import pyarrow as pa

from soulseek_research.storage import queries
from soulseek_research.storage.archive import (
    catalogue,
    formats,
    layout,
    locks,
    overlap,
    parquet_file,
    progress,
    recording,
)
from soulseek_research.storage.archive.catalogue import Part, State
from soulseek_research.storage.archive.checksum import Measured
from soulseek_research.storage.archive.destination import Destination
from soulseek_research.storage.archive.errors import ArchiveError
from soulseek_research.storage.archive.formats import Encoder
from soulseek_research.storage.archive.settings import Format
from soulseek_research.storage.archive.work import Work
from soulseek_research.storage.archive.written import Written

PIECE_BYTES = 4 << 20
GROUP_ROWS = parquet_file.ROW_GROUP_ROWS
GROUP_BYTES = parquet_file.ROW_GROUP_BYTES
# asyncpg wakes for every 8 KB that PostgreSQL sends, which costs more than all else that it does with them. So short a
# wait lets ten times as much come together, and no more than fits the socket's buffer: PostgreSQL does not wait.
GATHER_SECONDS = 0.001


async def export(work: Work, part: Part) -> Part:
    """Write a part's file to every destination, unless it is there.

    Args:
        work: The database and the destinations.
        part: What `sealing.seal` returned.

    Returns:
        The part as it is then: `exported` or further.

    Raises:
        ArchiveError: It cannot be written; nothing stands under the file's name that did not stand there before.
        StorageError: The database cannot be asked.
    """
    async with locks.month_session(work.database, part.month) as connection:
        part = await catalogue.part(connection, part.month, part.number)
        if await asyncio.to_thread(_is_there, work, part):
            return part
        began = time.monotonic()
        form = work.settings.archive_format
        name = layout.file_name(part.month, part.number, form)
        await asyncio.to_thread(_make_sure, work.destinations, part)
        if part.state is not State.SEALED:
            part = await catalogue.change(connection, part, state=State.SEALED)
        table = part.table_name
        assert table is not None, "migration 0004 keeps the rows somewhere"
        show = progress.paced(work.report, "export", await _expected_rows(connection, table))
        query, options = formats.copy_options(form)
        async with overlap.entered(_created(work.destinations, name, form)) as (file, encoder):
            exported = _Export(file, encoder, show)
            await exported.run(connection, queries.load(query).format(table=table), options)
            # Hours later: another database may have archived to that place, or a run have taken over from this one.
            await asyncio.to_thread(_make_sure, work.destinations, part)
        sizes = await asyncio.to_thread(_column_sizes, work.destinations[0], name, form)
        return await catalogue.change(
            connection,
            part,
            state=State.EXPORTED,
            format=form,
            file_path=name,
            places=[destination.url for destination in work.destinations],
            record_count=exported.measured.tally.rows,
            file_size=file.size,
            sha256=file.sha256,
            checksum=exported.measured.checksum_text,
            tally=exported.measured.tally.to_json(),
            key_ids=sorted(exported.key_ids),
            table_size=await connection.fetchval("SELECT pg_table_size($1::regclass)", f"public.{table}"),
            column_sizes=sizes,
            seconds=part.seconds + time.monotonic() - began,
        )


def _is_there(work: Work, part: Part) -> bool:
    if part.state in (State.ARCHIVED, State.EXPIRED):
        return True
    if part.state is State.SEALED or part.file_path is None:
        return False
    urls = [destination.url for destination in work.destinations]
    return list(part.places) == urls and all(
        destination.size(part.file_path) == part.file_size for destination in work.destinations
    )


def _make_sure(destinations: Sequence[Destination], part: Part) -> None:
    """Find out what stands in the way: a place that takes no files, or somebody's archive of that part."""
    for destination in destinations:
        destination.check()
        for name in layout.all_names(part.month, part.number):
            found = recording.read_manifest(destination, name)
            if found is None:
                continue
            if found.sha256 != part.sha256:
                raise ArchiveError(
                    f"{destination.url} already holds an archive {name} that this database does not know: "
                    "move it away, or archive to another place"
                )
            # Of this very part, whose recording was cut short; its file has gone since, and the next one is another.
            destination.delete(layout.manifest_name(name))


async def _expected_rows(connection: asyncpg.Connection, table: str) -> int | None:
    estimate = await connection.fetchval("SELECT reltuples::bigint FROM pg_class WHERE oid = $1::regclass", table)
    return estimate if estimate >= 0 else None


def _column_sizes(destination: Destination, name: str, form: Format) -> dict[str, int] | None:
    with destination.open(name) as file:
        return formats.column_sizes(file, form)


@contextlib.contextmanager
def _created(destinations: Sequence[Destination], name: str, form: Format) -> Iterator[tuple[Written, Encoder]]:
    with contextlib.ExitStack() as stack:
        file = Written([stack.enter_context(destination.create(name)) for destination in destinations])
        yield file, stack.enter_context(formats.open_encoder(file, form))


class _Export:
    """One COPY on its way into a file: received in the event loop; parsed, sorted and compressed in a thread each."""

    def __init__(self, file: Written, encoder: Encoder, show: Callable[[int, int], None]) -> None:
        self._encoder = encoder
        self._show = show
        self._received: list[bytes] = []
        self._received_bytes = 0
        self._rows_in_group = self._bytes_in_group = 0
        self.file = file
        self.measured = Measured()
        self.key_ids: set[str] = set()

    async def run(self, connection: asyncpg.Connection, query: str, options: dict[str, Any]) -> None:
        async with (
            overlap.beside() as self._writing,
            overlap.beside() as self._arranging,
            overlap.beside() as self._parsing,
        ):
            await connection.copy_from_query(query, output=self._receive, **options)
            await self._parse_received()
            await self._parsing.finish()
            await self._arrange_group()
            await self._write_arranged()

    async def _receive(self, data: bytes) -> None:
        """Take some whole rows: PostgreSQL sends each as a message of its own, and asyncpg keeps messages whole."""
        self._received.append(data)
        self._received_bytes += len(data)
        if self._received_bytes >= PIECE_BYTES:
            await self._parse_received()
        else:
            await asyncio.sleep(GATHER_SECONDS)

    async def _parse_received(self) -> None:
        await self._parsing.finish()
        if self._rows_in_group >= GROUP_ROWS or self._bytes_in_group >= GROUP_BYTES:
            await self._arrange_group()
        if self._received:
            await self._parsing.start(self._parse, b"".join(self._received))
            self._received, self._received_bytes = [], 0
        self._show(self.measured.tally.rows, self.file.size)

    def _parse(self, piece: bytes) -> None:
        try:
            frame = self._encoder.take(piece)
        except (pl.exceptions.PolarsError, pa.ArrowException) as error:
            # Its text may quote a row.
            raise ArchiveError(f"what PostgreSQL sent cannot be read ({type(error).__name__})") from None
        self.measured.add(frame)
        self._learn_keys(frame["username"])
        self._rows_in_group += frame.height
        self._bytes_in_group += len(piece)

    def _learn_keys(self, usernames: pl.Series) -> None:
        for key_id in self.key_ids:
            usernames = usernames.filter(~usernames.str.starts_with(f"{key_id}."))
        named = usernames.filter(usernames.str.contains(".", literal=True))
        self.key_ids.update(named.str.split(".").list.first().unique())

    async def _arrange_group(self) -> None:
        await self._write_arranged()
        await self._arranging.start(self._encoder.arrange, self._encoder.group())
        self._rows_in_group = self._bytes_in_group = 0

    async def _write_arranged(self) -> None:
        arranged = await self._arranging.finish()
        if arranged is not None:
            await self._writing.start(self._encoder.write, arranged)
