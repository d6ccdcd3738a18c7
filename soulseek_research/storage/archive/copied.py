"""What `COPY … TO STDOUT` in PostgreSQL's text format says, as a frame.

The text format and not CSV, because in it each line is a row, whatever stands in a query: line ends, tabs and
backslashes are escaped. See https://www.postgresql.org/docs/current/sql-copy.html, "Text Format".
"""

import re

import polars as pl

_SCHEMA = {
    "id": pl.Int64,
    "timestamp": pl.Int64,
    "ticket": pl.Int64,
    "source": pl.Int16,
    "flags": pl.Int16,
    "client_id": pl.String,
    "username": pl.String,
    "query": pl.String,
}
_TEXTS = [name for name, kind in _SCHEMA.items() if kind == pl.String]
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_MEANINGS = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


def parse(piece: bytes) -> pl.DataFrame:
    """Read some whole lines of `sql/copy_as_numbers.sql`.

    Raises:
        polars.exceptions.PolarsError: It is something else.
    """
    frame = pl.read_csv(
        piece, has_header=False, schema=_SCHEMA, separator="\t", quote_char=None, null_values={"ticket": r"\N"}
    )
    # polars takes an empty text for none, and no text is null here.
    return frame.with_columns(
        pl.col("timestamp").cast(pl.Datetime("ms", "UTC")), *(_unescaped(frame[name].fill_null("")) for name in _TEXTS)
    )


def _unescaped(texts: pl.Series) -> pl.Series:
    where = texts.str.contains("\\", literal=True).arg_true()
    if where.is_empty():
        return texts
    return texts.scatter(where, [_ESCAPED.sub(_meant, text) for text in texts.gather(where)])


def _meant(escaped: re.Match[str]) -> str:
    return _MEANINGS.get(escaped[1], escaped[1])
