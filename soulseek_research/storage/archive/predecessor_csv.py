"""The predecessor's searches in a CSV, as `COPY searches TO … CSV HEADER` writes it: plain, gzip or zstd.

It may be larger than the memory and in any order, so it is read once and its rows, as they will be kept, are put into a
file a month, compressed, in a folder that only this user may enter; from there they are loaded. Nothing is loaded of
a CSV that breaks off. The folder is gone at the end; after a kill the next import removes it.
"""

import contextlib
import csv
import errno
import fcntl
import gzip
import hashlib
import io
import itertools
import operator
import os
import shutil
import zlib
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Self

import pyarrow as pa

from soulseek_research.storage.archive import fingerprint
from soulseek_research.storage.archive.errors import ArchiveBusyError, ArchiveError
from soulseek_research.storage.archive.fingerprint import Seen
from soulseek_research.storage.archive.month import Month
from soulseek_research.storage.archive.predecessor import CHUNK_ROWS, Source
from soulseek_research.storage.archive.predecessor_rows import SOURCE_NOT_KNOWN, Row, Taker
from soulseek_research.storage.archive.progress import Progress, Report

NEEDED = ("timestamp", "client_id", "username", "query")
NO_ROW = "not a row of this CSV"

_SCHEMA = pa.schema(
    [
        ("timestamp", pa.timestamp("ms", "UTC")),
        ("flags", pa.int16()),
        ("client_id", pa.string()),
        ("username", pa.string()),
        ("query", pa.string()),
    ]
)
# In memory before they go to the files of their months.
_HELD_ROWS = 100_000
_HEAD_BYTES = 2**20
# A quote that is never closed swallows what follows up to here, and not the rest of the file.
_FIELD_BYTES = 2**20
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile, pa.ArrowInvalid)
_TOLD_ROWS = 10_000


@contextlib.contextmanager
def opened(path: Path, data_dir: Path) -> Iterator[Source]:
    """Open a CSV.

    Args:
        path: The file.
        data_dir: Where there is room for its rows, compressed, until they are loaded.

    Raises:
        ArchiveError: It cannot be read, or the folder cannot be made.
        ArchiveBusyError: Another import of a CSV is under way here.
    """
    try:
        name = f"{path.name} {_fingerprint(path)}"
    except OSError as error:
        raise ArchiveError(f"the CSV cannot be read: {path}: {error.strerror}") from None
    with _folder(data_dir) as folder:
        yield CsvSource(name, path, folder)


class CsvSource(Source):
    """One file."""

    def __init__(self, name: str, path: Path, folder: Path) -> None:
        """Take a file, and an empty folder for what is in it."""
        self.name = name
        self._path = path
        self._folder = folder

    async def months(self, taker: Taker, done: Collection[Month], report: Report) -> dict[Month, int]:
        """Read the whole file, and divide it by month."""
        return await fingerprint.beside(
            lambda seen: self._divide(taker, done, seen), lambda rows: report(Progress("read", rows, None, 0))
        )

    async def rows(self, month: Month, taker: Taker) -> AsyncGenerator[list[Row]]:  # noqa: ARG002 - they are taken
        """Read the file of a month."""
        with pa.OSFile(str(_file(self._folder, month))) as file, pa.ipc.open_stream(file) as stream:
            for batch in stream:
                columns = (batch.column(name).to_pylist() for name in _SCHEMA.names)
                yield [
                    (moment, None, SOURCE_NOT_KNOWN, flags, client_id, username, query)
                    for moment, flags, client_id, username, query in zip(*columns, strict=True)
                ]

    def _divide(self, taker: Taker, done: Collection[Month], seen: Seen) -> dict[Month, int]:
        with (
            _explained(self._path, self._folder),
            _Drawers(self._folder, {*done, Month.of(taker.now)}) as drawers,
        ):
            for fields in _records(self._path, taker, seen):
                row = taker.take(*fields)
                if row is not None:
                    drawers.put(row)
        return dict(drawers.rows)


class _Drawers:
    """A file for each month. Rows wait in memory until there are enough of them to be worth writing.

    Attributes:
        rows: How many there are of each month, written or not.
    """

    def __init__(self, folder: Path, unwanted: Collection[Month]) -> None:
        """Take a folder, and the months of which rows are only counted."""
        self.rows: Counter[Month] = Counter()
        self._folder = folder
        self._unwanted = unwanted
        self._stack = contextlib.ExitStack()
        self._writers: dict[Month, pa.ipc.RecordBatchStreamWriter] = {}
        self._held: defaultdict[tuple[int, int], list[Row]] = defaultdict(list)
        self._held_rows = 0

    def put(self, row: Row) -> None:
        moment = row[0]
        self._held[moment.year, moment.month].append(row)
        self._held_rows += 1
        if self._held_rows >= _HELD_ROWS:
            self._empty()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._stack:
            if kind is None:
                self._empty()

    def _empty(self) -> None:
        for (year, number), rows in self._held.items():
            month = Month(year, number)
            self.rows[month] += len(rows)
            if month not in self._unwanted:
                self._write(self._writers.get(month) or self._open(month), rows)
        self._held.clear()
        self._held_rows = 0

    @staticmethod
    def _write(writer: pa.ipc.RecordBatchStreamWriter, rows: list[Row]) -> None:
        for start in range(0, len(rows), CHUNK_ROWS):
            moments, _, _, *others = zip(*rows[start : start + CHUNK_ROWS], strict=True)
            writer.write_batch(pa.record_batch([pa.array(moments, _SCHEMA.types[0]), *others], schema=_SCHEMA))

    def _open(self, month: Month) -> pa.ipc.RecordBatchStreamWriter:
        descriptor = os.open(_file(self._folder, month), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        file = self._stack.enter_context(os.fdopen(descriptor, "wb"))
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        self._writers[month] = self._stack.enter_context(pa.ipc.new_stream(file, _SCHEMA, options=options))
        return self._writers[month]


def _file(folder: Path, month: Month) -> Path:
    return folder / f"{month}.arrow"


def _records(path: Path, taker: Taker, seen: Seen) -> Iterator[tuple[str, str, str, str]]:
    """The fields of each row in the order in which a Taker wants them; what is no row is counted there."""
    with path.open("rb") as raw, _decompressed(raw) as file, _field_limit():
        reader = csv.reader(io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline=""))
        header = next(reader, [])
        if not set(NEEDED) <= set(header):
            raise ArchiveError(
                f"the first line of {path} has to name the columns {', '.join(NEEDED)}: write it with "
                "COPY searches TO STDOUT CSV HEADER"
            )
        choose = operator.itemgetter(*(header.index(name) for name in NEEDED))
        for number in itertools.count():
            if number % _TOLD_ROWS == 0:
                seen(number)
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error:
                fields = []
            if len(fields) == len(header):
                yield choose(fields)
            else:
                taker.left_behind[NO_ROW] += 1


def _decompressed(raw: BinaryIO) -> contextlib.AbstractContextManager[Any]:
    start = raw.read(4)
    raw.seek(0)
    if start.startswith(_GZIP):
        return gzip.GzipFile(fileobj=raw)
    if start.startswith(_ZSTD):
        return contextlib.closing(pa.CompressedInputStream(pa.PythonFile(raw, "r"), "zstd"))
    return contextlib.nullcontext(raw)


@contextlib.contextmanager
def _field_limit() -> Iterator[None]:
    before = csv.field_size_limit(_FIELD_BYTES)
    try:
        yield
    finally:
        csv.field_size_limit(before)


@contextlib.contextmanager
def _folder(data_dir: Path) -> Iterator[Path]:
    """An empty folder for one import at a time; what a killed one left behind is removed."""
    folder, lock = data_dir / "import", data_dir / "import.lock"
    try:
        # Others may pass: as root, the embedded PostgreSQL is another user.
        data_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ArchiveError(f"there is no place for the rows of the CSV: {error.filename}: {error.strerror}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ArchiveBusyError(
                f"another CSV is being imported with the data folder {data_dir}: wait for it"
            ) from None
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _explained(path: Path, folder: Path) -> Iterator[None]:
    try:
        yield
    except _DAMAGED as error:
        raise ArchiveError(f"{path} is damaged or breaks off ({error}): nothing of it was imported") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ArchiveError(f"there is no room left for the rows of the CSV in {folder}") from None
        if error.errno is None:  # Arrow's, of what it cannot decompress
            raise ArchiveError(f"{path} is damaged or breaks off ({error}): nothing of it was imported") from None
        raise ArchiveError(f"the CSV cannot be read: {path}: {error.strerror}") from None


def _fingerprint(path: Path) -> str:
    """Enough to know a file again wherever it lies."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
        size = file.seek(0, os.SEEK_END)
    return hashlib.sha256(b"%d\n" % size + head).hexdigest()[:12]
