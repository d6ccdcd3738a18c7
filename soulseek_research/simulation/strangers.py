"""Peers that come to a client unasked: one that wants to be its child, or to be believed, or to become its parent."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import struct
from collections.abc import Callable

from . import frames, sockets
from .frames import messages
from .server import Account

CONNECT_SECONDS = 10.0
# Small, so that one who never reads is felt soon.
SLOW_BUFFER_BYTES = 4096

_tickets = itertools.count(1_000_000)
_SEARCH_CODE = 3
_LENGTH = struct.Struct("<I")


class Stranger:
    """One peer with a D connection to a client.

    Args:
        username: its name on the network.
        reads: whether it reads what it is sent; one that does not fills the client's socket.
        records: whether it decodes and keeps what it hears; otherwise it only counts.
    """

    def __init__(self, username: str, *, reads: bool = True, records: bool = True) -> None:
        self.username = username
        self.heard: list[tuple[str, int, str]] = []
        """The searches it was sent: username, ticket, query."""
        self.frames = 0
        self.level: int | None = None
        self.root: str | None = None
        self.closed = asyncio.Event()
        """Set when the client has closed the connection."""
        self._reads = reads
        self._records = records
        self._writer: asyncio.StreamWriter | None = None
        self._task: asyncio.Task[None] | None = None

    async def connect(self, account: Account) -> None:
        """Connect to the client's listening port; or, where it has none, have the server ask it to connect to us.

        Raises:
            TimeoutError: the client did not come.
            OSError: its port refuses.
        """
        async with asyncio.timeout(CONNECT_SECONDS):
            if account.port:
                host = account.writer.get_extra_info("peername")[0]
                reader, self._writer = await asyncio.open_connection(host, account.port)
                self.write(frames.serialise(messages.PeerInit.Request(self.username, "D", 0)))
            else:
                reader, self._writer = await self._be_visited(account)
        if self._reads:
            self._task = asyncio.create_task(self._read(reader), name=f"stranger {self.username}")
        else:
            sock: socket.socket = self._writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SLOW_BUFFER_BYTES)
            transport = self._writer.transport
            assert isinstance(transport, asyncio.ReadTransport)
            transport.pause_reading()

    async def _be_visited(self, account: Account) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        visited: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]]
        visited = asyncio.get_running_loop().create_future()

        def arrive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if visited.done():
                writer.close()
            else:
                visited.set_result((reader, writer))

        listener = await asyncio.start_server(arrive, frames.LOCALHOST, 0)
        try:
            port = listener.sockets[0].getsockname()[1]
            account.send(
                messages.ConnectToPeer.Response(
                    self.username,
                    "D",
                    frames.LOCALHOST,
                    port,
                    next(_tickets),
                    False,
                    0,
                    0,
                )
            )
            reader, writer = await visited
        finally:
            listener.close()
        await frames.read(reader)  # its PeerPierceFirewall
        return reader, writer

    def write(self, data: bytes) -> bool:
        """Send bytes; False when the connection is gone."""
        if self._writer is None or self._writer.transport.is_closing():
            return False
        self._writer.write(data)
        return True

    def announce(self, level: int, root: str) -> None:
        """Claim to stand at this level below this branch root, as a parent does."""
        self.write(frames.serialise(messages.DistributedBranchLevel.Request(level)))
        self.write(frames.serialise(messages.DistributedBranchRoot.Request(root)))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            if self._records:
                while (frame := await frames.read(reader)) is not None:
                    self._hear(frame)
            else:
                await self._count(reader)
        except ConnectionError:
            pass
        finally:
            self.closed.set()

    def _hear(self, frame: bytes) -> None:
        self.frames += 1
        with contextlib.suppress(Exception):  # what aioslsk cannot read is counted all the same
            message = messages.DistributedMessage.deserialize_request(frame)
            match message:
                case messages.DistributedSearchRequest.Request():
                    self.heard.append((message.username, message.ticket, message.query))
                case messages.DistributedBranchLevel.Request():
                    self.level = message.level
                case messages.DistributedBranchRoot.Request():
                    self.root = message.username

    async def _count(self, reader: asyncio.StreamReader) -> None:
        """Count search frames as cheaply as Python can."""
        rest = b""
        while data := await reader.read(1 << 18):
            data = rest + data
            position, end = 0, len(data)
            while position + 5 <= end:
                following = position + 4 + _LENGTH.unpack_from(data, position)[0]
                if following > end:
                    break
                self.frames += data[position + 4] == _SEARCH_CODE
                position = following
            rest = data[position:]

    async def until(self, condition: Callable[[], bool], seconds: float = 10.0) -> None:
        """Wait until something is true of this peer.

        Raises:
            TimeoutError: it did not become true.
        """
        async with asyncio.timeout(seconds):
            while not condition():  # noqa: ASYNC110 - what is heard comes far too often to be signalled
                await asyncio.sleep(0.01)

    async def close(self, *, reset: bool = False) -> None:
        """End the connection."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        if self._writer is not None:
            # What nobody will read is not waited for.
            sockets.end(self._writer, reset=reset or not self._reads)
            with contextlib.suppress(ConnectionError):
                await self._writer.wait_closed()
            self._writer = None
