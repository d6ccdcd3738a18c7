"""How far a command has come: a bar on a terminal, a line every few seconds in a log or a pipe."""

import contextlib
from collections.abc import Iterator
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

from flows.pace import Pace
from soulseek_research.storage.archive import progress

LINE_SECONDS = 5.0
WHOLE = 1000


class Display:
    """Shows the reports of one step at a time."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._said = monotonic()
        self._bars: Progress | None = None
        if console.is_terminal:
            columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn())
            self._bars = Progress(*columns, console=console, transient=True)
            self._bars.start()
            self._bar = self._bars.add_task("", total=None)

    def of(self, subject: str) -> progress.Report:
        """Whom to report to; the subject, a month say, stands before what is said."""
        pace = Pace()

        def report(one: progress.Progress) -> None:
            pace.follow(one)
            self._show(f"{subject} {pace.line()}", pace.share)

        return report

    def end(self) -> None:
        """Leave the terminal as it was."""
        if self._bars is not None:
            self._bars.stop()

    def _show(self, line: str, share: float | None) -> None:
        if self._bars is not None:
            # Begun anew each time: a bar that has come to its end would stand still for all that follows.
            self._bars.tasks[0].total = None if share is None else WHOLE
            self._bars.reset(self._bar, description=line, completed=round(WHOLE * (share or 0)))
        elif monotonic() - self._said >= LINE_SECONDS:
            self._said = monotonic()
            self._console.print(line, soft_wrap=True)


@contextlib.contextmanager
def shown() -> Iterator[Display]:
    """Show on standard error, so that what a command tells can be piped."""
    display = Display(Console(stderr=True, highlight=False, markup=False))
    try:
        yield display
    finally:
        display.end()
