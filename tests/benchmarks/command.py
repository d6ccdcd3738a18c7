"""A command that runs to its end, watched: how long it takes and how much memory."""

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks import measure

WATCH_SECONDS = 0.01
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Run:
    """A command that has ended well.

    Attributes:
        seconds: From its start to its end.
        megabytes: The most memory that it ever had in RAM; of all its processes together, and of each its own most.
    """

    seconds: float
    megabytes: float


async def run(arguments: Sequence[str | Path], folder: Path, **environment: str) -> Run:
    """Run a command in a folder, which is its home too and where what it says is kept, and watch it.

    Raises:
        RuntimeError: It failed; the text holds the end of what it said.
    """
    log = folder / "command.log"
    peaks: dict[int, float] = {}
    with log.open("wb") as output:
        began = time.perf_counter()
        process = await asyncio.create_subprocess_exec(
            *arguments, cwd=folder,
            env={"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(ROOT)} | environment,
            stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output,
        )  # fmt: skip
        ended = asyncio.create_task(process.wait())
        while not ended.done():
            peaks |= measure.family_peaks(process.pid)
            await asyncio.wait([ended], timeout=WATCH_SECONDS)
        seconds = time.perf_counter() - began
    if process.returncode:
        raise RuntimeError(f"it ended with {process.returncode}: {log.read_text(errors='replace')[-2000:]}")
    return Run(seconds, sum(peaks.values()))
