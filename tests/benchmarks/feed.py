"""The feeder: the simulated network in a process of its own, told by lines what to send."""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

START_SECONDS = 60.0
ANSWER_SECONDS = 300.0


class Feed:
    """A running feeder.

    Attributes:
        address: HOST:PORT of its Soulseek server.
        fed: how many searches it has sent, which is the ticket of the next one.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.address = ""
        self.fed = 0

    async def feed(self, count: int, rate: float = 0.0) -> float:
        """Send so many searches, at so many a second or as fast as they are taken; returns how many seconds it took."""
        answer = await self.ask(f"feed {count} {rate}")
        self.fed = answer["fed"]
        return float(answer["seconds"])

    async def children(self, count: int) -> None:
        """Connect so many children to whoever listens."""
        await self.ask(f"children {count}")

    async def children_heard(self) -> dict[str, int]:
        """How many searches each child was sent."""
        heard: dict[str, int] = (await self.ask("status"))["children"]
        return heard

    async def listened_to(self) -> None:
        """Until an account has found its parent."""
        async with asyncio.timeout(START_SECONDS):
            while all(one["seeks_parent"] for one in (await self.ask("status"))["accounts"].values()):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.2)  # what the account was told along with it

    async def left(self) -> None:
        """Until nobody is logged in."""
        async with asyncio.timeout(START_SECONDS):
            while (await self.ask("status"))["accounts"]:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def ask(self, line: str) -> Any:
        """Give an order and return the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())
        return await self.answer(ANSWER_SECONDS)

    async def answer(self, seconds: float) -> Any:
        assert self._process.stdout is not None
        async with asyncio.timeout(seconds):
            line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError("the feeder has ended")
        return json.loads(line)


@contextlib.asynccontextmanager
async def feeding(*options: str) -> AsyncIterator[Feed]:
    """Run a feeder."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "soulseek_research.simulation.feeder", *options,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        feed = Feed(process)
        host, port = (await feed.answer(START_SECONDS))["server"]
        feed.address = f"{host}:{port}"
        yield feed
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
