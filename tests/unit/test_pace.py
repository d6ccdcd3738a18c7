import re
from pathlib import Path

import pytest

from flows.pace import DOING, Pace, duration, size
from soulseek_research.storage import archive
from soulseek_research.storage.archive.progress import Progress


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_time_that_is_left_is_foretold_from_the_step_alone() -> None:
    clock = Clock()
    pace = Pace(clock)
    assert pace.line() == ""
    pace.follow(Progress("export", 0, 5_000_000, 0))
    assert pace.line() == "exporting: 0 of 5,000,000 rows (0 %)"
    clock.now += 4
    pace.follow(Progress("export", 1_250_000, 5_000_000, 15_100_000))
    assert pace.line() == "exporting: 1,250,000 of 5,000,000 rows (25 %), 15.1 MB, 12 s left"
    pace.follow(Progress("verify", 0, 5_000_000, 0))
    assert pace.seconds_left is None
    clock.now += 1
    pace.follow(Progress("verify", 2_500_000, 5_000_000, 0))
    assert pace.seconds_left == 1


def test_another_attempt_is_another_beginning() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.follow(Progress("export", 900, 1000, 1))
    clock.now += 60
    pace.follow(Progress("export", 0, 1000, 1))
    clock.now += 1
    pace.follow(Progress("export", 500, 1000, 1))
    assert pace.seconds_left == 1


@pytest.mark.parametrize("expected", [None, 0])
def test_nothing_is_foretold_where_nobody_has_counted(expected: int | None) -> None:
    pace = Pace()
    for rows in (0, 1000):
        pace.follow(Progress("export", rows, expected, rows))
    assert (pace.share, pace.seconds_left) == (None, None)
    assert pace.line() == "exporting: 1,000 rows, 1.0 kB"


def test_more_than_was_expected_is_all() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.follow(Progress("export", 0, 1000, 0))
    clock.now += 1
    pace.follow(Progress("export", 1100, 1000, 0))
    assert (pace.share, pace.seconds_left) == (1.0, 0.0)
    assert pace.line() == "exporting: 1,100 of 1,000 rows (100 %)"


@pytest.mark.parametrize(
    ("number", "words"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (62_140_000, "62.1 MB"), (1.5e12, "1.5 TB")],
)
def test_sizes_are_told_for_people(number: float, words: str) -> None:
    assert size(number) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_times_are_told_for_people(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_every_step_that_is_reported_has_words_for_people() -> None:
    room = Path(archive.__file__).parent
    called = r'(?:Progress\(|paced\([\w.]+, )"(\w+)"'
    reported = {step for module in room.glob("*.py") for step in re.findall(called, module.read_text())}
    assert {"export", "verify", "delete", "restore", "anonymise"} <= reported <= set(DOING)


def test_where_bytes_are_read_and_no_rows_counted_it_tells_bytes() -> None:
    pace = Pace()
    pace.follow(Progress("delete", 0, 1000, 15_100_000))
    assert pace.line() == "checking before the drop: 15.1 MB"
    assert pace.share is None
