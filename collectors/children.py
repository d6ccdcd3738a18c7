"""The children of our branch: they are sent every believed search, and never slow the listening down.

What goes to them is collected once for all and handed out every 50 ms: aioslsk would serialise each search once per
child and start a task for each, which is most of its work with five children.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Any, Final

from aioslsk.network.connection import CloseReason, PeerConnection

FLUSH_SECONDS: Final = 0.05
BACKLOG_MAX_BYTES: Final = 1 << 20
"""A child for which more than this waits when more comes is let go."""
STALL_SECONDS: Final = 10.0
"""So is one that takes nothing for so long."""

_log = logging.getLogger(__name__)


class _Child:
    """One child: what waits for it, and the task that writes it."""

    def __init__(self, connection: PeerConnection, brood: Brood) -> None:
        self.connection = connection
        self._brood = brood
        self._batches: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._more = asyncio.Event()
        self._task = asyncio.create_task(self._write())

    def put(self, batch: bytes) -> bool:
        """Takes a batch; False when too much waits already."""
        if self._waiting_bytes > BACKLOG_MAX_BYTES:
            return False
        self._batches.append(batch)
        self._waiting_bytes += len(batch)
        self._more.set()
        return True

    def stop(self) -> None:
        self._task.cancel()

    async def stopped(self) -> None:
        await asyncio.gather(self._task, return_exceptions=True)

    async def _write(self) -> None:
        while True:
            await self._more.wait()
            self._more.clear()
            while self._batches:
                try:
                    async with asyncio.timeout(STALL_SECONDS):
                        await self.connection.send_data(self._batches[0])
                except TimeoutError:
                    self._brood.cut_off(self.connection)
                    return
                except Exception:  # noqa: BLE001 - aioslsk has closed the connection, and says no more than that
                    return
                self._waiting_bytes -= len(self._batches.popleft())


class Brood:
    """Sends the same bytes to all children.

    Attributes:
        too_slow: how many children were cut off because they did not take what was sent.
    """

    def __init__(self) -> None:
        self.too_slow = 0
        self._children: dict[PeerConnection, _Child] = {}
        self._pending: list[bytes] = []
        self._closing: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._children)

    def add(self, connection: PeerConnection) -> None:
        """Sends to this connection from now on."""
        if connection not in self._children:
            self._children[connection] = _Child(connection, self)

    def remove(self, connection: PeerConnection) -> None:
        """Sends to this connection no more."""
        if child := self._children.pop(connection, None):
            child.stop()

    def send(self, frame: bytes) -> None:
        """Sends a frame to all children, soon. Never waits."""
        if not self._children:
            return
        if not self._pending:
            asyncio.get_running_loop().call_later(FLUSH_SECONDS, self._flush)
        self._pending.append(frame)

    def _flush(self) -> None:
        batch = b"".join(self._pending)
        self._pending.clear()
        for connection, child in list(self._children.items()):
            if not child.put(batch):
                self.cut_off(connection)

    def cut_off(self, connection: PeerConnection) -> None:
        """Ends the connection to a child that is too slow."""
        self.too_slow += 1
        _log.info("A child was too slow and was let go")
        self.remove(connection)
        task = asyncio.create_task(connection.disconnect(CloseReason.TIMEOUT))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def stop(self) -> None:
        """Sends nothing more to anybody."""
        children = list(self._children.values())
        self._children.clear()
        for child in children:
            child.stop()
        await asyncio.gather(*(child.stopped() for child in children), *self._closing, return_exceptions=True)
