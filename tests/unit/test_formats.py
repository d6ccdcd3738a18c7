"""Each format gives back what was written, and says so when it cannot."""

import gzip
import io
import itertools
import secrets
import tracemalloc
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soulseek_research.storage.archive import copied, formats, parquet_file
from soulseek_research.storage.archive.errors import ArchiveError
from soulseek_research.storage.archive.rows import COLUMNS
from soulseek_research.storage.archive.settings import Format
from tests import archived

FORMATS = st.sampled_from(Format)


def written(form: Format, *tables: pa.Table) -> bytes:
    sink = io.BytesIO()
    with formats.open_writer(_Kept(sink), form) as writer:
        for table in tables:
            writer.write(table)
    return sink.getvalue()


class _Kept:
    """A place's writer, of which Arrow expects a little more than `write`."""

    closed = False

    def __init__(self, sink: io.BytesIO) -> None:
        self.write = sink.write

    def flush(self) -> None: ...

    def close(self) -> None: ...


def read(data: bytes, form: Format) -> list[archived.Row]:
    return [row for table in formats.batches(io.BytesIO(data), form) for row in archived.rows(table)]


def as_set(rows: Sequence[archived.Row]) -> list[archived.Row]:
    return sorted(rows, key=repr)


@given(FORMATS, st.lists(st.lists(archived.ROWS, max_size=6), max_size=3))
@settings(deadline=None)
def test_what_is_written_can_be_read(form: Format, pieces: list[list[archived.Row]]) -> None:
    data = written(form, *map(archived.table, pieces))
    assert as_set(read(data, form)) == as_set([row for piece in pieces for row in piece])


@pytest.mark.parametrize("form", Format)
def test_a_file_that_was_cut_or_changed_is_refused(form: Format) -> None:
    rows = archived.realistic(3000)
    data = written(form, archived.table(rows))
    for length in (0, 1, len(data) // 2, len(data) - 1):
        with pytest.raises(ArchiveError, match=r"it is not sound|its columns are not"):
            read(data[:length], form)
    with pytest.raises(ArchiveError):
        read(b"something else altogether" * 100, form)


@pytest.mark.parametrize("row", ["1,2026-09-01 00:00:00+00,5,1,0,eu,a secret", "a secret,,,,,,,"])
def test_a_refusal_quotes_no_row(row: str) -> None:
    sink = io.BytesIO(gzip.compress(f"{','.join(COLUMNS)}\n{row}\n".encode()))
    with pytest.raises(ArchiveError, match="it is not sound") as refused:
        list(formats.batches(sink, Format.CSV_GZ))
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("form", [Format.CSV_ZST, Format.CSV_GZ])
def test_other_columns_are_refused(form: Format) -> None:
    data = written(form, archived.table(archived.realistic(3)))
    codec = "zstd" if form is Format.CSV_ZST else "gzip"
    text = pa.CompressedInputStream(pa.BufferReader(data), codec).read().replace(b"ticket", b"tocket")
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, codec) as stream:
        stream.write(text)
    with pytest.raises(ArchiveError, match="its columns are not those of an archive"):
        read(sink.getvalue().to_pybytes(), form)


def test_a_row_group_is_a_stretch_of_time_and_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_file, "ROW_GROUP_ROWS", 1000)
    tables = [archived.table(archived.realistic(5000)[start : start + 500]) for start in range(0, 5000, 500)]
    with pq.ParquetFile(io.BytesIO(written(Format.PARQUET, *tables))) as parquet:
        assert parquet.metadata.num_row_groups == 5
        groups = [archived.rows(parquet.read_row_group(number)) for number in range(5)]
        encodings: dict[str, Any] = {
            name: parquet.metadata.row_group(0).column(number).encodings for number, name in enumerate(COLUMNS)
        }
        sizes = formats.column_sizes(io.BytesIO(written(Format.PARQUET, *tables)), Format.PARQUET)
    assert all(max(row[1] for row in one) < min(row[1] for row in two) for one, two in itertools.pairwise(groups))
    assert all(group == sorted(group, key=lambda row: (row[7], row[6], row[1])) for group in groups)
    assert "DELTA_BINARY_PACKED" in encodings["timestamp"]
    assert "DELTA_BYTE_ARRAY" in encodings["query"]
    assert sizes is not None
    assert set(sizes) == set(COLUMNS)
    assert all(size > 0 for size in sizes.values())


def test_reading_back_holds_no_more_than_a_row_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_file, "ROW_GROUP_ROWS", 1000)
    monkeypatch.setattr(parquet_file, "READ_ROWS", 500)
    rows = [(*row[:7], secrets.token_hex(100)) for row in archived.realistic(20_000)]
    tables = [archived.table(rows[start : start + 1000]) for start in range(0, len(rows), 1000)]
    file = io.BytesIO(data := written(Format.PARQUET, *tables))
    tracemalloc.start()
    try:
        held = [tracemalloc.get_traced_memory()[0] for _ in formats.batches(file, Format.PARQUET)]
    finally:
        tracemalloc.stop()
    assert len(held) == 40
    assert max(held) < len(data) / 4


def test_many_people_do_not_overflow_the_dictionary() -> None:
    rows = [(*row[:6], f"4cqjynle.{place:060}", row[7]) for place, row in enumerate(archived.realistic(30_000))]
    with pq.ParquetFile(io.BytesIO(written(Format.PARQUET, archived.table(rows + rows)))) as parquet:
        column = parquet.metadata.row_group(0).column(COLUMNS.index("username"))
    assert column.total_uncompressed_size < 30_000 * (4 + 69) + 60_000 * 3


ESCAPES = str.maketrans({"\\": r"\\", "\b": r"\b", "\f": r"\f", "\n": r"\n", "\r": r"\r", "\t": r"\t", "\v": r"\v"})


@given(st.lists(archived.ROWS, min_size=1, max_size=8))
def test_the_text_format_of_copy_is_read_back(rows: list[archived.Row]) -> None:
    lines = [
        "\t".join(
            [
                str(row[0]),
                str(archived.milliseconds(row[1])),
                "" if row[2] is None else str(row[2]),
                *map(str, row[3:5]),
                *(text.translate(ESCAPES) for text in row[5:]),
            ]
        )
        + "\n"
        for row in rows
    ]
    frame = copied.parse("".join(lines).encode())
    assert archived.rows(archived.table(list(frame.select(COLUMNS).iter_rows()))) == rows
