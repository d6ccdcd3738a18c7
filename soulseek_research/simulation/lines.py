"""Commands as lines on standard input, answers as lines of JSON on standard output."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import AsyncIterator
from typing import Any


async def read() -> AsyncIterator[str]:
    """The lines of standard input, until it ends.

    A thread reads them, since a file or /dev/null cannot be awaited; it is a daemon, since nothing can wake it.
    """
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[str] = asyncio.Queue()

    def pump() -> None:
        line = "begin"
        while line:
            line = sys.stdin.readline()
            if loop.is_closed():
                return
            loop.call_soon_threadsafe(queue.put_nowait, line)

    threading.Thread(target=pump, name="standard input", daemon=True).start()
    while line := await queue.get():
        yield line


def say(answer: dict[str, Any]) -> None:
    """Answer."""
    sys.stdout.write(json.dumps(answer, ensure_ascii=False) + "\n")
    sys.stdout.flush()
