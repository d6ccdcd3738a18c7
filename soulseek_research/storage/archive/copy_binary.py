"""Rows as PostgreSQL's binary COPY takes them: no value needs quoting, and nothing is rounded on its way back."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from soulseek_research.storage.archive.rows import TEXTS

# So much goes into one COPY: large enough to cost nothing by itself, small enough to be held twice.
PIECE_BYTES = 4 << 20

_SIGNATURE = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_END = b"\xff\xff"
# Every value stands behind its length. Numbers first, as in the table, up to the length of the first text.
_NUMBERS = np.dtype(
    [
        ("columns", ">i2"),
        ("id_size", ">i4"),
        ("id", ">i8"),
        ("timestamp_size", ">i4"),
        ("timestamp", ">i8"),
        ("ticket_size", ">i4"),
        ("ticket", ">i8"),
        ("source_size", ">i4"),
        ("source", ">i2"),
        ("flags_size", ">i4"),
        ("flags", ">i2"),
        ("client_id_size", ">i4"),
    ]
)
_SIZES = {"columns": 8, "id_size": 8, "timestamp_size": 8, "ticket_size": 8, "source_size": 2, "flags_size": 2}
_TICKET = slice(_NUMBERS.fields["ticket"][1], _NUMBERS.fields["ticket"][1] + 8)  # type: ignore[index]
_NO_TICKET = -1
# PostgreSQL counts from 2000-01-01, in microseconds.
_EPOCH_MS = 946_684_800_000
_MICROSECONDS = 1000


def pieces(table: pa.Table) -> Iterator[memoryview]:
    """Encode some rows, each piece a whole COPY of its own.

    Args:
        table: Of `rows.SCHEMA`.

    Yields:
        What `COPY … (columns in the order of rows.COLUMNS) FROM STDIN (FORMAT binary)` takes, in the order of the rows.
    """
    for batch in table.to_batches():
        rows = max(1, batch.num_rows * PIECE_BYTES // max(1, batch.nbytes))
        for start in range(0, batch.num_rows, rows):
            # asyncpg would take bytes for the name of a file.
            yield memoryview(b"".join((_SIGNATURE, _rows(batch.slice(start, rows)), _END)))


def _rows(batch: pa.RecordBatch) -> pa.Buffer:
    client_ids, usernames, queries = (batch.column(name).cast(pa.binary()) for name in TEXTS)
    joined = pc.binary_join_element_wise(
        _numbers(batch, client_ids),
        client_ids,
        _sizes(usernames),
        usernames,
        _sizes(queries),
        queries,
        b"",
    )
    return joined.buffers()[2]


def _numbers(batch: pa.RecordBatch, client_ids: pa.BinaryArray) -> pa.BinaryArray:
    tickets = batch.column("ticket")
    numbers = np.empty(batch.num_rows, dtype=_NUMBERS)
    for name, size in _SIZES.items():
        numbers[name] = size
    numbers["id"] = batch.column("id").to_numpy()
    numbers["timestamp"] = (batch.column("timestamp").view(pa.int64()).to_numpy() - _EPOCH_MS) * _MICROSECONDS
    numbers["ticket"] = tickets.fill_null(0).to_numpy()
    numbers["source"] = batch.column("source").to_numpy()
    numbers["flags"] = batch.column("flags").to_numpy()
    numbers["client_id_size"] = pc.binary_length(client_ids).to_numpy()
    bytes_ = numbers.view(np.uint8).reshape(batch.num_rows, _NUMBERS.itemsize)
    lengths = np.full(batch.num_rows, _NUMBERS.itemsize, dtype=np.int32)
    if tickets.null_count:
        # A value that is NULL has no bytes at all, only a length that says so.
        none = tickets.is_null().to_numpy(zero_copy_only=False)
        numbers["ticket_size"][none] = _NO_TICKET
        lengths[none] -= 8
        kept = np.ones(bytes_.shape, dtype=bool)
        kept[none, _TICKET] = False
        bytes_ = bytes_[kept]
    return _binary(lengths, bytes_)


def _sizes(texts: pa.BinaryArray) -> pa.BinaryArray:
    sizes = pc.binary_length(texts).to_numpy().astype(">i4")
    return _binary(np.full(len(texts), sizes.itemsize, dtype=np.int32), sizes.view(np.uint8))


def _binary(lengths: npt.NDArray[np.int32], data: npt.NDArray[np.uint8]) -> pa.BinaryArray:
    offsets = np.zeros(len(lengths) + 1, dtype=np.int32)
    np.cumsum(lengths, out=offsets[1:])
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(data))]
    return pa.Array.from_buffers(pa.binary(), len(lengths), buffers)
