"""Who listens: our collector, by the command that its users start, and the predecessor's way."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from tests.benchmarks import measure
from tests.benchmarks.feed import Feed

STOP_SECONDS = 60.0


class Listener:
    """A process that listens to the feeder and keeps what it hears."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    def cpu_seconds(self) -> float:
        return measure.cpu_seconds(self.pid)

    async def stop(self) -> None:
        """End it gently: what it still holds it stores."""
        self._process.terminate()
        async with asyncio.timeout(STOP_SECONDS):
            code = await self._process.wait()
        if code:
            raise RuntimeError(f"it ended with {code}")


@contextlib.asynccontextmanager
async def collector(feed: Feed, dsn: str, folder: Path) -> AsyncIterator[Listener]:
    """Our collector, as `soulseek-research start` runs it."""
    arguments = "-m", "flows.cli", "start", "--username", "bench", "--server", feed.address
    async with _listening(feed, folder, [*arguments, "--data-dir", str(folder)], dsn) as listener:
        yield listener


@contextlib.asynccontextmanager
async def predecessor(feed: Feed, dsn: str, folder: Path) -> AsyncIterator[Listener]:
    """What there was before."""
    arguments = "-m", "tests.benchmarks.predecessor", feed.address
    async with _listening(feed, folder, list(arguments), dsn) as listener:
        yield listener


@contextlib.asynccontextmanager
async def _listening(feed: Feed, folder: Path, arguments: list[str], dsn: str) -> AsyncIterator[Listener]:
    log = folder / "listener.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, *arguments,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(folder),
                "SOULSEEK_RESEARCH_PASSWORD": "not a secret",
                "SOULSEEK_RESEARCH_DATABASE_URL": dsn,
            },
            stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output,
        )  # fmt: skip
    try:
        await feed.listened_to()
        yield Listener(process)
        await feed.left()
    except Exception as error:
        error.add_note(log.read_text(errors="replace")[-2000:])
        raise
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
