"""Listening on a free port, and ending connections the gentle way and the rough way."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable

from . import frames

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
# SO_LINGER on with 0 seconds: closing sends RST and throws away what was not sent.
_LINGER = struct.pack("ii", 1, 0)
# Who lets this much wait is let go, as real peers do; it also bounds what a stopped client costs us.
BACKLOG_BYTES = 64 << 20
# How long a FIN waits for a peer that does not read what was written before it.
CLOSE_SECONDS = 1.0


def end(writer: asyncio.StreamWriter, *, reset: bool = False) -> None:
    """Close a connection by FIN after what was written, or by RST at once."""
    if not reset:
        writer.close()
        return
    sock = writer.get_extra_info("socket")
    if sock is not None and not writer.transport.is_closing():
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
    writer.transport.abort()


def write(writer: asyncio.StreamWriter, data: bytes) -> bool:
    """Hand bytes to a connection; False when it is closing, or ended now because its peer reads too slowly."""
    transport = writer.transport
    if transport.is_closing():
        return False
    if transport.get_write_buffer_size() > BACKLOG_BYTES:
        transport.abort()
        return False
    writer.write(data)
    return True


async def drain(writer: asyncio.StreamWriter) -> None:
    """Wait until a connection has room for more, or is gone."""
    with contextlib.suppress(ConnectionError):
        await writer.drain()


async def close(writer: asyncio.StreamWriter) -> None:
    """Close a connection by FIN and wait until it is gone; by force where its peer reads nothing any more."""
    writer.close()
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            await writer.wait_closed()
    except (ConnectionError, TimeoutError):
        writer.transport.abort()


class Listener:
    """A TCP listener that knows its connections and closes them all.

    Args:
        serve: called for each connection; the connection is closed when it returns.
        host: the address to listen on.
        port: 0 for any free port; it is kept over a stop and a start.
    """

    def __init__(self, serve: Serve, host: str = frames.LOCALHOST, port: int = 0) -> None:
        self.host = host
        self.port = port
        self._serve = serve
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: the port is taken.
        """
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, self.host, self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self, *, reset: bool = False) -> None:
        """Listen no more, and end every connection."""
        if self._server is not None:
            self._server.close()
        for writer in self._connections.values():
            end(writer, reset=reset)
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = writer
        try:
            # A broken connection is this network's daily bread, and a task that ends cancelled would be reported.
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await self._serve(reader, writer)
        finally:
            del self._connections[task]
            await close(writer)
