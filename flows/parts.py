"""Parts of months as they are shown: in tables for people, and as records for programs."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import click

from flows import tables
from flows.pace import duration, size
from soulseek_research.storage.archive.catalogue import Part, State

# What a narrow terminal does without.
SPARE = ("usernames", "archived", "ratio")


def show(known: Sequence[Part], *, as_json: bool, empty: str = "Nothing yet.") -> None:
    """Print parts, and where their files lie."""
    if as_json:
        tables.show([record(part) for part in known], as_json=True)
        return
    tables.show([row(part) for part in known], empty=empty, spare=SPARE)
    places = dict.fromkeys(place for part in known if part.file_path for place in part.places)
    if places:
        click.echo(f"The files lie in {', '.join(places)}.")


def row(part: Part) -> dict[str, Any]:
    """One line of a table."""
    return {
        "month": str(part.month),
        "part": part.number,
        "state": part.state.value,
        "rows": part.rows,
        "table": None if part.table_size is None else size(part.table_size),
        "file": None if part.file_size is None else size(part.file_size),
        "ratio": ratio(part),
        "usernames": part.usernames,
        "in the database": kept_as(part),
        "archived": part.archived_at,
    }


def record(part: Part) -> dict[str, Any]:
    """All that is known; sizes in bytes."""
    known = dataclasses.asdict(part)
    known |= {"month": str(part.month), "part": known.pop("number"), "paths": paths(part)}
    first = {name: known.pop(name) for name in ("month", "part")}
    return first | known | {"ratio": ratio(part), "in_database": kept_as(part)}


def figures(parts: Sequence[Part]) -> list[dict[str, Any]]:
    """The final table of a month: a line a figure, a column a part."""
    columns = {part.name: _figures(part) for part in parts}
    lines = dict.fromkeys(name for column in columns.values() for name in column)
    return [{"figure": line} | {name: column.get(line, "") for name, column in columns.items()} for line in lines]


def _figures(part: Part) -> dict[str, str]:
    shown = {
        "state": part.state.value,
        "in the database": kept_as(part) or "no longer",
        "rows": f"{part.rows or 0:,}",
        "table": _exactly(part.table_size),
        "file": _exactly(part.file_size),
        "ratio": f"{ratio(part):.1f}:1" if ratio(part) else "–",
        "seconds": f"{part.seconds:.1f}",
        "checksum of the rows": part.checksum or "–",
        "SHA-256 of the file": part.sha256 or "–",
        "path": ", ".join(paths(part)) or "–",
    }
    for name, taken in (part.column_sizes or {}).items():
        shown[f"{name} in the file"] = f"{size(taken)} ({taken / max(1, part.rows or 0):.2f} bytes a row)"
    return shown


def ratio(part: Part) -> float | None:
    """How many times smaller the file is than the table was."""
    return part.table_size / part.file_size if part.table_size and part.file_size and part.rows else None


def kept_as(part: Part) -> str | None:
    """How its rows are in the database: `sealed`, `restored` or, None, not at all."""
    if part.table_name is None:
        return None
    return "restored" if part.state is State.ARCHIVED and part.restored_at is not None else "sealed"


def paths(part: Part) -> list[str]:
    """Where its file lies, in each place."""
    return [] if part.file_path is None else [f"{place.rstrip('/')}/{part.file_path}" for place in part.places]


def told(parts: Sequence[Part]) -> str:
    """Parts in a few words: `5,000,000 rows in 62.1 MB, 10.5:1, dropped from the database`."""
    if not parts:
        return "nothing of it is in the database that is not archived"
    return "; ".join(_told(part, numbered=len(parts) > 1) for part in parts)


def _told(part: Part, *, numbered: bool) -> str:
    smaller = ratio(part)
    words = [
        f"{part.rows or 0:,} rows" + (f" in {size(part.file_size)}" if part.file_size is not None else ""),
        f"{smaller:.1f}:1" if smaller else "",
        duration(part.seconds) if part.seconds else "",
        f"{kept_as(part)} in the database" if part.table_name else "dropped from the database",
    ]
    return (f"part {part.number}: " if numbered else "") + ", ".join(word for word in words if word)


def _exactly(number_of_bytes: int | None) -> str:
    return "–" if number_of_bytes is None else f"{size(number_of_bytes)} ({number_of_bytes:,} bytes)"
