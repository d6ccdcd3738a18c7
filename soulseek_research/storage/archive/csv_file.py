"""CSV as COPY writes it, with a header and compressed: restored by nothing but psql and zstd, or gzip."""

import contextlib
import io
from collections.abc import Iterator
from typing import BinaryIO

import polars as pl
import pyarrow as pa
from pyarrow import csv

from soulseek_research.storage.archive.destination import Writer
from soulseek_research.storage.archive.errors import ArchiveError
from soulseek_research.storage.archive.rows import COLUMNS, SCHEMA
from soulseek_research.storage.archive.settings import Format

QUERY = "copy_as_text"
# The header is ours: it would stand in the first piece alone.
COPY_OPTIONS = {"format": "csv"}

_HEADER = (",".join(COLUMNS) + "\n").encode()
_CODECS = {Format.CSV_ZST: "zstd", Format.CSV_GZ: "gzip"}
_BLOCK_BYTES = 4 << 20  # far more than the longest row

_read = csv.ReadOptions(column_names=list(COLUMNS), block_size=_BLOCK_BYTES)
_parse = csv.ParseOptions(newlines_in_values=True)
# Only a ticket may be missing; an empty text is an empty text.
_convert = csv.ConvertOptions(column_types=SCHEMA, strings_can_be_null=False)


class _Encoder:
    """Compresses what COPY sends as it is."""

    def __init__(self, stream: pa.NativeFile) -> None:
        self._stream = stream
        self._pieces: list[bytes] = []

    def take(self, piece: bytes) -> pl.DataFrame:
        self._pieces.append(piece)
        return pl.DataFrame(csv.read_csv(pa.py_buffer(piece), _read, _parse, _convert))

    def group(self) -> list[bytes]:
        pieces, self._pieces = self._pieces, []
        return pieces

    def arrange(self, group: list[bytes]) -> list[bytes]:
        return group

    def write(self, arranged: list[bytes]) -> None:
        for piece in arranged:
            self._stream.write(piece)


class _Writer:
    """Writes rows as COPY would."""

    def __init__(self, stream: pa.NativeFile) -> None:
        self._stream = stream

    def write(self, table: pa.Table) -> None:
        frame = pl.DataFrame(table).with_columns(pl.col("timestamp").dt.strftime("%Y-%m-%d %H:%M:%S%.3f+00"))
        self._stream.write(frame.write_csv(include_header=False, null_value="", quote_style="non_numeric").encode())


@contextlib.contextmanager
def open_encoder(sink: Writer, form: Format) -> Iterator[_Encoder]:
    """See `formats`."""
    with _compressed(sink, form) as stream:
        yield _Encoder(stream)


@contextlib.contextmanager
def open_writer(sink: Writer, form: Format) -> Iterator[_Writer]:
    """See `formats`."""
    with _compressed(sink, form) as stream:
        yield _Writer(stream)


@contextlib.contextmanager
def _compressed(sink: Writer, form: Format) -> Iterator[pa.NativeFile]:
    with pa.CompressedOutputStream(pa.PythonFile(sink, "w"), _CODECS[form]) as stream:
        stream.write(_HEADER)
        yield stream


def batches(file: BinaryIO, form: Format) -> Iterator[pa.Table]:
    """See `formats`."""
    try:
        with pa.CompressedInputStream(pa.PythonFile(file, "r"), _CODECS[form]) as stream:
            text = io.BufferedReader(stream, _BLOCK_BYTES)
            if text.read(len(_HEADER)) != _HEADER:
                raise ArchiveError("its columns are not those of an archive")
            # An archive of no rows; Arrow would take it for an error.
            if not text.peek(1):
                return
            for batch in csv.open_csv(text, _read, _parse, _convert):
                yield pa.Table.from_batches([batch])
    except (pa.ArrowException, OSError) as error:
        # Its text may quote a row.
        raise ArchiveError(f"it is not sound {form} ({type(error).__name__})") from None
