"""How far a step has come, in words: the same on a terminal, in a log and in the Prefect UI."""

import time
from collections.abc import Callable

from soulseek_research.storage.archive.progress import Progress

DOING = {
    "seal": "sealing",
    "export": "exporting",
    "verify": "reading back",
    "record": "recording",
    "delete": "checking before the drop",
    "restore": "restoring",
    "anonymise": "removing usernames",
    "import": "importing",
    "read": "reading",
    "adopt": "reading",
    "check": "reading",
}

# What comes before the first rows of a file, its mark say, is not worth telling.
FIRST_BYTES = 1000


class Pace:
    """Follows the reports of one step after the other, and foretells the end of the present one."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._first: tuple[float, Progress] | None = None
        self.latest: Progress | None = None

    def follow(self, progress: Progress) -> None:
        """Take a report; another step, or fewer rows than before, is a new beginning."""
        last = self.latest
        if last is None or last.step != progress.step or progress.rows < last.rows:
            self._first = (self._clock(), progress)
        self.latest = progress

    @property
    def share(self) -> float | None:
        """How much of the present step is done, 0 to 1; None when nobody knows."""
        if self.latest is None or not self.latest.rows_expected or self._counts_bytes:
            return None
        # What is expected may be an estimate.
        return min(1.0, self.latest.rows / self.latest.rows_expected)

    @property
    def _counts_bytes(self) -> bool:
        """Whether a file is read for its SHA-256, which counts no rows."""
        return self.latest is not None and not self.latest.rows and self.latest.written >= FIRST_BYTES

    @property
    def seconds_left(self) -> float | None:
        """Of the present step; None when nobody knows yet."""
        if self._first is None or self.latest is None or not self.latest.rows_expected:
            return None
        began, first = self._first
        done = self.latest.rows - first.rows
        if done <= 0:
            return None
        return max(0.0, (self.latest.rows_expected - self.latest.rows) * (self._clock() - began) / done)

    def line(self) -> str:
        """`exporting: 1,200,000 of 5,000,000 rows (24 %), 15.1 MB, 12 s left`; empty before the first report."""
        if self.latest is None:
            return ""
        latest, left = self.latest, self.seconds_left
        written = size(latest.written) if latest.written >= FIRST_BYTES else ""
        rows = f"{latest.rows:,} rows"
        if self._counts_bytes:
            rows = ""
        elif self.share is not None:
            rows = f"{latest.rows:,} of {latest.rows_expected:,} rows ({self.share:.0%})".replace("%", " %")
        told = ", ".join(part for part in (rows, written, f"{duration(left)} left" if left else "") if part)
        return f"{DOING.get(latest.step, latest.step)}: {told}"


def size(number_of_bytes: float) -> str:
    """Bytes for people, in powers of a thousand: `15.1 MB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if number_of_bytes < 1000:
            return f"{number_of_bytes:.0f} {unit}" if unit == "bytes" else f"{number_of_bytes:.1f} {unit}"
        number_of_bytes /= 1000
    return f"{number_of_bytes:.1f} TB"


def duration(seconds: float) -> str:
    """A time for people: `12 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, whole = divmod(whole, 60)
    return f"{minutes} min {whole} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
