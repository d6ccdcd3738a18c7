"""Figures, and what they are read from: a process's time on the processors, its memory, the machine. Linux only."""

import contextlib
import dataclasses
import os
import platform
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

MEGABYTE = 1_000_000


@dataclasses.dataclass(frozen=True)
class Figure:
    """One line of the report.

    Attributes:
        value: The median, where there were several runs.
        ratio: To what it is compared with, as `name` says.
        required: In words; empty where nothing is.
        met: None where nothing is required.
        runs: What each run gave, in their order.
    """

    name: str
    value: float
    unit: str
    ratio: float | None = None
    required: str = ""
    met: bool | None = None
    runs: Sequence[float] = ()


def median(name: str, runs: Sequence[float], unit: str) -> Figure:
    return Figure(name, statistics.median(runs), unit, runs=list(runs))


def at_least(figure: Figure, ratio: float, least: float, words: str) -> Figure:
    return dataclasses.replace(figure, ratio=ratio, required=words, met=ratio >= least)


def at_most_times(figure: Figure, ratio: float, most: float, words: str) -> Figure:
    return dataclasses.replace(figure, ratio=ratio, required=words, met=ratio <= most)


def at_most(figure: Figure, most: float) -> Figure:
    return dataclasses.replace(figure, required=f"at most {most:g} {figure.unit}", met=figure.value <= most)


def cpu_seconds(pid: int) -> float:
    """The user and system time of a process and all its threads so far, to the nanosecond.

    The same sum as `getrusage` gives, of another process: the clock of `clock_getcpuclockid(3)`.
    """
    return time.clock_gettime(~pid << 3 | 2)


def peak_megabytes(pid: int) -> float:
    """The most memory that a process ever had in RAM."""
    return _status_kilobytes(pid, "VmHWM") * 1024 / MEGABYTE


def family_peaks(pid: int) -> dict[int, float]:
    """The peak memory, in megabytes, of a process and of each that descends from it, as far as they live."""
    peaks: dict[int, float] = {}
    pids = [pid]
    for one in pids:
        # One may end while it is looked at; then it has no memory, or is not there.
        with contextlib.suppress(OSError, StopIteration):
            peaks[one] = peak_megabytes(one)
            for task in Path(f"/proc/{one}/task").iterdir():
                pids += map(int, (task / "children").read_text().split())
    return peaks


def resident_megabytes(pid: int) -> float:
    """The memory that a process has in RAM now."""
    return _status_kilobytes(pid, "VmRSS") * 1024 / MEGABYTE


def wakeups(pid: int) -> int:
    """How often the threads of a process have slept, so far."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(_number(task / "status", "voluntary_ctxt_switches") for task in tasks)


def machine() -> dict[str, str | int]:
    """Where this was measured."""
    model = next(
        (line.partition(":")[2].strip() for line in _lines(Path("/proc/cpuinfo")) if line.startswith("model name")),
        platform.machine(),
    )
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": model,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "load": f"{os.getloadavg()[0]:.1f}",
    }


def _status_kilobytes(pid: int, name: str) -> int:
    return _number(Path(f"/proc/{pid}/status"), name)


def _number(path: Path, name: str) -> int:
    return next(int(line.split()[1]) for line in _lines(path) if line.startswith(f"{name}:"))


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines()
