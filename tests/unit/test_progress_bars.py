import io

import pytest
from rich.console import Console

from flows import progress_bars
from soulseek_research.storage.archive.progress import Progress


def test_in_a_pipe_it_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(progress_bars, "monotonic", lambda: now)
    with progress_bars.shown() as display:
        report = display.of("2026-10")
        report(Progress("export", 1_000_000, 5_000_000, 0))
        now += progress_bars.LINE_SECONDS
        for rows in (2_000_000, 3_000_000):
            report(Progress("export", rows, 5_000_000, 15_100_000))
    said, shown = capsys.readouterr()
    assert (said, shown.count("\n")) == ("", 1)
    assert shown.startswith("2026-10 exporting: 2,000,000 of 5,000,000 rows (40 %), 15.1 MB, ")


def test_on_a_terminal_a_bar_that_leaves_nothing_behind() -> None:
    terminal = io.StringIO()
    display = progress_bars.Display(Console(file=terminal, force_terminal=True, width=100))
    display.of("[2026-10]")(Progress("export", 1_000_000, 5_000_000, 0))
    display.end()
    shown = terminal.getvalue()
    assert "[2026-10] exporting: 1,000,000 of 5,000,000 rows (20 %)" in shown
    assert shown.endswith("\x1b[2K")


def test_a_step_after_one_that_has_ended_is_under_way_again() -> None:
    display = progress_bars.Display(Console(file=io.StringIO(), force_terminal=True, width=100))
    report = display.of("2026-10")
    report(Progress("export", 1000, 1000, 0))
    report(Progress("verify", 250, 1000, 0))
    assert display._bars is not None
    (task,) = display._bars.tasks
    assert (task.finished, task.percentage) == (False, 25)
    report(Progress("delete", 0, 1000, 15_100_000))
    assert task.total is None  # nobody knows how much is left: the bar only moves
    display.end()
