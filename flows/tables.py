"""Tables for people, or the same as JSON for programs."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

Rows = Sequence[dict[str, Any]]

# Wider than any table: to ask how wide one would like to be.
_ENDLESS = 1_000_000


def show(
    rows: Rows,
    *,
    title: str | None = None,
    as_json: bool = False,
    empty: str = "Nothing yet.",
    spare: Sequence[str] = (),
) -> None:
    """Print rows that have the same fields; the names of the fields are the headings.

    Args:
        rows: what to print; times are datetimes, numbers numbers.
        title: stands above the table.
        as_json: print a JSON list instead, with times in ISO 8601.
        empty: what to say when there is no row.
        spare: fields that a terminal that is too narrow does without, the first one first.
    """
    if as_json:
        click.echo(json.dumps(rows, default=_plain, ensure_ascii=False, indent=2))
    elif not rows:
        click.echo(empty)
    else:
        console = Console(highlight=False)
        made = table(rows)
        if console.is_terminal:
            for name in spare:
                if _width(made, console) <= console.width:
                    break
                rows = [{field: value for field, value in row.items() if field != name} for row in rows]
                made = table(rows)
        else:
            # A pipe or a log has no width of its own: nothing is broken there.
            console.width = max(console.width, _width(made, console))
        if title is not None:
            console.print(title, style="bold", markup=False)
        console.print(made)


def table(rows: Rows, *, title: str | None = None) -> Table:
    """Rows as a table."""
    made = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    for name in rows[0]:
        values = [row[name] for row in rows if row[name] is not None]
        numeric = bool(values) and all(isinstance(one, int | float) and not isinstance(one, bool) for one in values)
        # Folded: the end of a path that is cut off is what one wanted to know.
        made.add_column(name.replace("_", " "), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        made.add_row(*(Text(_shown(value)) for value in row.values()))
    return made


def _width(made: Table, console: Console) -> int:
    """How wide a table would be with nothing broken."""
    return console.measure(made, options=console.options.update_width(_ENDLESS)).maximum


def _shown(value: Any) -> str:
    match value:
        case None:
            return "–"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.1f}"
        case datetime():
            return value.strftime("%Y-%m-%d %H:%M:%SZ")
        case dict():
            return ", ".join(f"{number:,} {name}" for name, number in sorted(value.items())) or "–"
        case _:
            # A query may hold anything; what is shown is not obeyed by the terminal.
            return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in str(value))


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else str(value)
