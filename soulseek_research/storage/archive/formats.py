"""The formats of archives: what each asks PostgreSQL for, how it is written, and how it is read back."""

import contextlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any, BinaryIO, Protocol

import polars as pl
import pyarrow as pa

from soulseek_research.storage.archive import csv_file, parquet_file
from soulseek_research.storage.archive.destination import Writer
from soulseek_research.storage.archive.settings import Format


class TableWriter(Protocol):
    """A file that rows are written to."""

    def write(self, table: pa.Table) -> None:
        """Append rows of `rows.SCHEMA`."""


class Encoder(Protocol):
    """Turns what COPY sends into a file, a group of rows at a time. All of it blocks, and wants a thread."""

    def take(self, piece: bytes) -> pl.DataFrame:
        """Add some whole rows to the group, and return them with the columns of `rows.SCHEMA`."""

    def group(self) -> list[Any]:
        """Return the group that was gathered, and begin another."""

    def arrange(self, group: list[Any]) -> Any:
        """Make of a group what is written of it; the next one may be gathered meanwhile."""

    def write(self, arranged: Any) -> None:
        """Append it to the file; the next group may be arranged meanwhile."""


def copy_options(form: Format) -> tuple[str, dict[str, Any]]:
    """Return the name of the query and the options of COPY by which a format is exported."""
    module = _module(form)
    return module.QUERY, module.COPY_OPTIONS


@contextlib.contextmanager
def open_encoder(sink: Writer, form: Format) -> Iterator[Encoder]:
    """Write a file from what COPY sends; it is complete when the context ends without an error."""
    with _module(form).open_encoder(sink, form) as encoder:
        yield encoder


@contextlib.contextmanager
def open_writer(sink: Writer, form: Format) -> Iterator[TableWriter]:
    """Write a file from rows; it is complete when the context ends without an error. Memory stays flat."""
    with _module(form).open_writer(sink, form) as writer:
        yield writer


def batches(file: BinaryIO, form: Format) -> Iterator[pa.Table]:
    """Read an archive back, some rows of `rows.SCHEMA` at a time. Memory stays flat.

    Raises:
        ArchiveError: It is not an archive of this format, or ends too early.
    """
    tables: Iterator[pa.Table] = _module(form).batches(file, form)
    return tables


def _module(form: Format) -> ModuleType:
    return parquet_file if form is Format.PARQUET else csv_file


def column_sizes(file: BinaryIO, form: Format) -> dict[str, int] | None:
    """Bytes of each column in the file; None where the format does not keep columns apart."""
    return parquet_file.column_sizes(file) if form is Format.PARQUET else None
