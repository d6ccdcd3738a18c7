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
    """Read some whole lines of `sql/copy_as_numbers.sql`, in which an empty ticket is null.

    Raises:
        polars.exceptions.PolarsError: It is something else.
    """
    frame = pl.read_csv(piece, has_header=False, schema=_SCHEMA, separator="\t", quote_char=None)
    escaped = _lines_with(b"\\", piece)
    # polars takes an empty text for none.
    texts = [_unescaped(frame[name].fill_null(""), escaped) for name in _TEXTS]
    return frame.with_columns(pl.col("timestamp").cast(pl.Datetime("ms", "UTC")), *texts)


def _lines_with(mark: bytes, text: bytes) -> list[int]:
    """The numbers of the lines with a mark. It is rare, and to look into every text takes ten times as long."""
    lines = []
    line = at = 0
    while (found := text.find(mark, at)) >= 0:
        line += text.count(b"\n", at, found)
        lines.append(line)
        at = text.find(b"\n", found)
    return lines


def _unescaped(texts: pl.Series, lines: list[int]) -> pl.Series:
    if not lines:
        return texts
    return texts.scatter(lines, [_ESCAPED.sub(_meant, text) for text in texts.gather(lines)])


def _meant(escaped: re.Match[str]) -> str:
    return _MEANINGS.get(escaped[1], escaped[1])
