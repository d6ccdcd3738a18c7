"""The figures as a table for people, and as JSON for programs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.benchmarks.measure import Figure


def show(figures: Sequence[Figure], machine: Mapping[str, Any]) -> None:
    table = Table(title="soulseek-research, measured side by side", title_justify="left")
    for name in ("", "figure", "unit", "ratio", "required", ""):
        table.add_column(name, justify="right" if name in ("figure", "ratio") else "left", no_wrap=True)
    for one in figures:
        table.add_row(one.name, _number(one.value), one.unit, _ratio(one), one.required, _verdict(one))
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, 160)
    console.print(table)
    console.print(", ".join(f"{name} {value}" for name, value in machine.items()))


def save(figures: Sequence[Figure], machine: Mapping[str, Any], path: Path) -> None:
    content = {"machine": dict(machine), "figures": [asdict(one) for one in figures]}
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def _ratio(figure: Figure) -> str:
    return "" if figure.ratio is None else f"{figure.ratio:.2f}"


def _verdict(figure: Figure) -> str:
    return "" if figure.met is None else "met" if figure.met else "[bold red]short[/]"
