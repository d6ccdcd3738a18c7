"""The SHA-256 of a file in a place: read in full, in a thread, and given up when nobody waits for it any more."""

import asyncio
import contextlib
import hashlib
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from soulseek_research.storage.archive.destination import Destination

PIECE_BYTES = 2**20
REPORT_SECONDS = 0.5

Result = TypeVar("Result")

Seen = Callable[[int], None]
"""Told how many bytes have been read so far."""


class GivenUpError(Exception):
    """Nobody waits for it any more."""


def sha256(destination: Destination, name: str, seen: Seen = lambda _: None) -> str:
    """Return the SHA-256 of a file, in hex. Blocks.

    Args:
        destination: Where it lies.
        name: Of the file.
        seen: Called after each megabyte; what it raises ends the reading.

    Raises:
        ArchiveError: It cannot be read.
    """
    digest = hashlib.sha256()
    count = 0
    with destination.open(name) as file:
        while piece := file.read(PIECE_BYTES):
            digest.update(piece)
            count += len(piece)
            seen(count)
    return digest.hexdigest()


async def beside(function: Callable[[Seen], Result], seen: Seen) -> Result:
    """Run a blocking function that reads a file beside the event loop; cancelled, it ends within a piece.

    Args:
        function: Called in a thread with what it is to tell its progress to.
        seen: Called from the event loop, twice a second at most.

    Returns:
        What the function returned.
    """
    loop = asyncio.get_running_loop()
    given_up = threading.Event()
    told_at = time.monotonic()

    def tell(count: int) -> None:
        nonlocal told_at
        if given_up.is_set():
            raise GivenUpError
        now = time.monotonic()
        if now - told_at >= REPORT_SECONDS:
            told_at = now
            loop.call_soon_threadsafe(seen, count)

    reading = asyncio.ensure_future(asyncio.to_thread(function, tell))
    try:
        # Cancelling would leave the thread to itself, and whoever ends the process would wait for it.
        return await asyncio.shield(reading)
    except asyncio.CancelledError:
        given_up.set()
        with contextlib.suppress(Exception):
            await reading
        raise
