"""How far a step has come, told to whoever shows it: a progress bar, an artifact in the Prefect UI, or nobody."""

import time
from collections.abc import Callable
from dataclasses import dataclass

REPORT_SECONDS = 0.5


@dataclass(frozen=True)
class Progress:
    """One report.

    Attributes:
        step: What is done: `export`, `verify`, `record`, `delete`, `restore`, `import` ...
        rows: Done so far.
        rows_expected: In all; an estimate of PostgreSQL's where nobody has counted yet, None where that has none.
        written: Bytes written (or read, by a step that reads) so far.
    """

    step: str
    rows: int
    rows_expected: int | None
    written: int


Report = Callable[[Progress], None]
"""Called from the event loop, a few times a second at most; it must not block."""


def nobody(_: Progress) -> None:
    """Show nothing."""


def paced(report: Report, step: str, expected: int | None) -> Callable[[int, int], None]:
    """Return what reports rows and bytes of a step, now and then, however often it is called."""
    reported_at = float("-inf")

    def show(rows: int, written: int) -> None:
        nonlocal reported_at
        if (now := time.monotonic()) - reported_at >= REPORT_SECONDS:
            reported_at = now
            report(Progress(step, rows, expected, written))

    return show
