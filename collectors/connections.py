"""Our connections: to the server, to a parent, and to strangers who may become children.

aioslsk reads one message at a time, with a time-out, a log record and an object for each. Here a connection reads what
has arrived, hands the searches in it to the tree at once, and gives aioslsk only the other messages.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from aioslsk.exceptions import MessageDeserializationError
from aioslsk.network.connection import (
    CloseReason,
    ConnectionState,
    DataConnection,
    ListeningConnection,
    PeerConnection,
    PeerConnectionState,
    PeerConnectionType,
    ServerConnection,
)
from aioslsk.protocol.messages import PeerInit

from collectors import frames

if TYPE_CHECKING:
    from collectors.network import ListeningNetwork

READ_BYTES: Final = 1 << 16
REST_SECONDS: Final = 0.1
"""After searches nothing is read for so long. At the rates that are seen, waking up for each search costs ten times
what the search does. Its time is late by so much at most, as after one more hop in the tree."""
RESTLESS_BYTES: Final = 1 << 14
"""Nobody rests after reading so much: what gathers meanwhile could fill the socket."""
STRANGER_FRAME_MAX_BYTES: Final = 16 << 10
HANDSHAKE_SECONDS: Final = 10.0
PARENT_SILENCE_SECONDS: Final = 60.0
# A child has no reason to send us searches; one that sends so many is cut off, to spare us the reading.
STRANGER_SEARCHES_MAX: Final = 1000


class _Bulk(DataConnection):
    """Reads frames in bulk; a mixin before one of aioslsk's connections."""

    network: ListeningNetwork
    _cutter: frames.Cutter
    _frames: Iterator[bytes] = iter(())

    def consume(self, frame: bytes) -> bool:
        """Handles a search. Returns False for any other frame, which is left to aioslsk."""
        raise NotImplementedError

    async def receive_message_object(self) -> Any:
        """The next message that is not a search; None when the connection has ended."""
        heard, size = False, 0
        while True:
            for frame in self._frames:
                if self.consume(frame):
                    heard = True
                    continue
                try:
                    return self.decode_message_data(frame)
                except MessageDeserializationError:
                    # Unknown to aioslsk or broken. Its reader loop would log the bytes, and has no other use for them.
                    continue
            if heard and size < RESTLESS_BYTES:
                await self._rest()
            data = await self._read_some()
            if data is None or self.state is not ConnectionState.CONNECTED:
                return None
            heard, size = False, len(data)
            before = self._cutter.oversized
            self._frames = iter(self._cutter.cut(data))
            if oversized := self._cutter.oversized - before:
                self.network.tree.refuse_oversized(oversized)

    async def _rest(self) -> None:
        """Lets what arrives gather in the socket, unless the session is about to end."""
        writer = self._writer
        if writer is None or self.network.leaving.is_set():
            return
        transport = writer.transport
        assert isinstance(transport, asyncio.ReadTransport)
        transport.pause_reading()
        try:
            async with asyncio.timeout(REST_SECONDS):
                await self.network.leaving.wait()
        except TimeoutError:
            pass
        finally:
            transport.resume_reading()

    async def _read_some(self) -> bytes | None:
        if self._cutter.ended:
            await self.disconnect(CloseReason.READ_ERROR)
        # _reader and _read are aioslsk's own, but it has no public way to read what is there from the server. _read
        # keeps its promises: the time-out, and the state and reason of closing.
        if self._reader is None:
            return None
        data: bytes | None = await self._read(self._reader.read(READ_BYTES), timeout=self.read_timeout)
        if data is not None and len(data) == READ_BYTES:
            await asyncio.sleep(0)  # more is waiting, and reading it would not let others run
        return data

    async def disconnect(self, reason: CloseReason = CloseReason.UNKNOWN) -> None:
        """Closes, and does not leave a socket behind that waits for its peer to read."""
        writer = self._writer  # aioslsk's own: it closes gently and then forgets it, with all that was not sent
        await super().disconnect(reason)
        if writer is not None:
            writer.transport.abort()


class ServerStream(_Bulk, ServerConnection):
    """The connection to the server."""

    def __init__(self, host: str, port: int, network: ListeningNetwork) -> None:
        super().__init__(host, port, network)
        self._cutter = frames.Cutter(frames.FRAME_MAX_BYTES, frames.FRAME_MAX_BYTES)

    def consume(self, frame: bytes) -> bool:
        """Handles the server's two ways to send a search."""
        code = frames.server_code(frame)
        if code == frames.EMBEDDED:
            self.network.tree.hear_server(frame)
        elif code == frames.FILE_SEARCH:
            self.network.tree.hear_addressed(frame)
        else:
            return False
        return True


class ParentConnection(_Bulk, PeerConnection):
    """A connection that we opened to a peer which the server offered: our parent, or a candidate."""

    def __init__(self, username: str, host: str, port: int, network: ListeningNetwork) -> None:
        super().__init__(
            host,
            port,
            network,
            username=username,
            connection_type=PeerConnectionType.DISTRIBUTED,
            read_timeout=PARENT_SILENCE_SECONDS,
        )
        self._cutter = frames.Cutter(frames.SEARCH_FRAME_MAX_BYTES, frames.FRAME_MAX_BYTES)

    def consume(self, frame: bytes) -> bool:
        """Handles a parent's two ways to send a search."""
        code = frames.distributed_code(frame)
        if code == frames.DISTRIBUTED_SEARCH:
            self.network.tree.hear_distributed(self, frame)
        elif code == frames.EMBEDDED:
            self.network.tree.hear_embedded(self, frame)
        else:
            return False
        return True


class StrangerConnection(_Bulk, PeerConnection):
    """A connection that somebody else wanted: it can become our child, and can tell us next to nothing."""

    def __init__(self, host: str, port: int, network: ListeningNetwork, username: str | None = None) -> None:
        super().__init__(
            host,
            port,
            network,
            username=username,
            incoming=username is None,
            # aioslsk takes the type of an incoming connection from its first message.
            connection_type=PeerConnectionType.PEER if username is None else PeerConnectionType.DISTRIBUTED,
            read_timeout=HANDSHAKE_SECONDS,
        )
        self._cutter = frames.Cutter(STRANGER_FRAME_MAX_BYTES, STRANGER_FRAME_MAX_BYTES)
        self._searches = 0
        self._depth = b""

    def set_connection_state(self, state: PeerConnectionState) -> None:
        """Once established a child owes us no sign of life: that it takes what we send is enough."""
        if state is PeerConnectionState.ESTABLISHED:
            self.read_timeout = 0
        super().set_connection_state(state)

    def consume(self, frame: bytes) -> bool:
        """Refuses searches and swallows what a child has no reason to say."""
        if self.connection_state is PeerConnectionState.AWAITING_INIT:
            return False
        code = frames.distributed_code(frame)
        if code in (frames.DISTRIBUTED_SEARCH, frames.EMBEDDED):
            self._searches += 1
            self.network.tree.refuse_stranger()
        elif code == frames.DISTRIBUTED_CHILD_DEPTH and frame != self._depth:
            self._depth = frame
            return False
        return True

    async def receive_message_object(self) -> Any:
        """The next message; of the first ones only a greeting by somebody whom we take as a child."""
        waiting = self.connection_state is PeerConnectionState.AWAITING_INIT
        message = await super().receive_message_object()
        if (
            waiting
            and message is not None
            and not (
                isinstance(message, PeerInit.Request)
                and message.typ == PeerConnectionType.DISTRIBUTED
                and self.network.welcomes(message.username)
            )
        ):
            await self.disconnect(CloseReason.REQUESTED)
            return None
        return message

    async def _read_some(self) -> bytes | None:
        if self._searches > STRANGER_SEARCHES_MAX:
            await self.disconnect(CloseReason.REQUESTED)
            return None
        return await super()._read_some()


class Door(ListeningConnection):
    """The listening port, which lets in only so many at a time."""

    network: ListeningNetwork

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Takes a new connection, or drops it when there are too many."""
        peer = writer.get_extra_info("peername")
        if peer is None or not self.network.has_room:
            writer.transport.abort()
            return
        connection = StrangerConnection(peer[0], peer[1], self.network)
        # aioslsk's own accept() sets these too: it knows no other way to make a connection of an open socket.
        connection._reader, connection._writer = reader, writer  # noqa: SLF001
        await connection.set_state(ConnectionState.CONNECTED)
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):  # the reads have one each, which a drip of bytes renews
                await self.network.on_peer_accepted(connection)
        except TimeoutError:
            await connection.disconnect(CloseReason.TIMEOUT)
