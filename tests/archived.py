"""Rows as archives hold them, for tests of every layer: anything that the columns of `searches` can hold."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
from hypothesis import strategies as st

from soulseek_research.storage.archive.month import Month
from soulseek_research.storage.archive.rows import COLUMNS, SCHEMA

# No partition is made for what lies more than a year back.
MONTH = Month.of(datetime.now(UTC)).plus(-2)
LAST = MONTH.end - timedelta(milliseconds=1)

Row = tuple[Any, ...]

# PostgreSQL takes every character but NUL; UTF-8 has no lone surrogates.
TEXTS = st.one_of(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=60),
    st.sampled_from(
        ["", r"\N", "\\.", "\\", '"', '""', "a,b", "a\tb", "a\nb\r\nc\r", " padded ", "\u202eRTL\u202c", "🎵" * 9]
    ),
    st.sampled_from(["x" * 4096, "ж" * 4096, "🎵" * 4096]),
)
TIMES = st.one_of(
    st.sampled_from([MONTH.start, LAST]),
    st.integers(0, int((LAST - MONTH.start) / timedelta(milliseconds=1))).map(
        lambda ms: MONTH.start + timedelta(milliseconds=ms)
    ),
)
NAMES = st.one_of(TEXTS, st.sampled_from(["4cqjynle.XAsBdsV7c1p2ckY8qGQ", "abcd2345.A"]))
ROWS = st.tuples(
    st.integers(-(2**63), 2**63 - 1),
    TIMES,
    st.one_of(st.none(), st.sampled_from([0, 2**32 - 1]), st.integers(0, 2**32 - 1)),
    st.integers(-(2**15), 2**15 - 1),
    st.integers(-(2**15), 2**15 - 1),
    st.sampled_from(["eu", "us", "ünï cödé", "a\\b"]),
    NAMES,
    TEXTS,
)


def table(rows: list[Row]) -> pa.Table:
    """Rows as Arrow holds them."""
    columns = list(zip(*rows, strict=True)) or [()] * len(COLUMNS)
    return pa.Table.from_arrays(
        [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)], schema=SCHEMA
    )


def rows(table: pa.Table) -> list[Row]:
    """The inverse of `table`, with times that compare."""
    return [tuple(row[name] for name in COLUMNS) for row in table.to_pylist()]


def realistic(number: int) -> list[Row]:
    """So many plain rows over the whole month."""
    step = (LAST - MONTH.start) / max(number, 2)
    return [
        (
            place,
            _to_ms(MONTH.start + step * place),
            place % 2**32,
            1,
            0,
            "eu",
            f"4cqjynle.{place % 97:022}",
            f"query {place % 1000}",
        )
        for place in range(number)
    ]


def milliseconds(moment: datetime) -> int:
    """A moment in milliseconds since 1970."""
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def _to_ms(moment: datetime) -> datetime:
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000).astimezone(UTC)
