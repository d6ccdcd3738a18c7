"""aioslsk's Network, reduced to what a listener needs: the server, offered parents and a few children.

It never asks the server for anybody's address, never opens a connection for messages or files, and reads the searches
itself (see `collectors/connections.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Final

from aioslsk.events import EventBus, PeerInitializedEvent
from aioslsk.exceptions import NetworkError, PeerConnectionError
from aioslsk.network.connection import (
    CloseReason,
    PeerConnectionState,
    PeerConnectionType,
)
from aioslsk.network.network import Network
from aioslsk.protocol.messages import (
    CannotConnect,
    ConnectToPeer,
    DistributedBranchLevel,
    DistributedBranchRoot,
    PeerInit,
    PeerPierceFirewall,
)
from aioslsk.settings import Settings

from collectors.connections import Door, ParentConnection, ServerStream, StrangerConnection

if TYPE_CHECKING:
    from collectors.tree import Tree

# A real tree is some ten levels deep. Broken clients say 2**32 - 1, and ours could not say one more.
LEVEL_MAX: Final = 1 << 16
# The server allows thirty letters.
USERNAME_MAX: Final = 256
# The server offers about ten parents at a time.
CANDIDATES_MAX: Final = 20
# Half-open strangers and children together. Each can hold some hundred kilobytes.
STRANGERS_MAX: Final = 64
# What has arrived is read within this time.
LEAVING_SECONDS: Final = 0.02
DEFAULT_CHILDREN_MAX: Final = 10
"""As Nicotine+ has it; the server's word may make it fewer."""


class ListeningNetwork(Network):
    """The connections of one session.

    Attributes:
        tree: set by `Tree` itself, before anything is connected.
        leaving: set once the session is about to end.
    """

    tree: Tree

    def __init__(self, settings: Settings, event_bus: EventBus, *, children_max: int = DEFAULT_CHILDREN_MAX) -> None:
        # aioslsk calls our create_... methods from its __init__.
        self._own_settings = settings
        self._bus = event_bus
        self._children_max = children_max
        self._invitations: set[asyncio.Task[None]] = set()
        self.leaving = asyncio.Event()
        super().__init__(settings, event_bus)

    def create_server_connection(self) -> ServerStream:
        """The connection to the server, which reads searches itself."""
        server = self._own_settings.network.server
        return ServerStream(server.hostname, server.port, self)

    def create_listening_connections(self) -> tuple[Door | None, None]:
        """The listening port, if there is to be one."""
        port = self._own_settings.network.listening.port
        return (Door("0.0.0.0", port, self) if port else None), None  # noqa: S104 - other clients are everywhere

    def create_server_response_future(self, message_class: type[Any], fields: dict[str, Any] | None = None) -> Any:
        """As aioslsk's, which compares classes for equality and would never see our connection's answers."""
        future = super().create_server_response_future(message_class, fields)
        future.connection_class = ServerStream
        return future

    async def create_peer_connection(
        self,
        username: str,
        typ: str,
        ip: str | None = None,
        port: int | None = None,
        obfuscate: bool = False,  # noqa: ARG002 - aioslsk's signature; D connections never are
    ) -> ParentConnection:
        """Connects to a peer that the server offered as a parent, and to nobody else.

        Raises:
            PeerConnectionError: for any other purpose, without a need, or when it fails.
        """
        if typ != PeerConnectionType.DISTRIBUTED or ip is None or not port:
            raise PeerConnectionError("only offered parents are connected to")
        candidates = sum(isinstance(one, ParentConnection) for one in self.peer_connections)
        if self.tree.parent is not None or candidates >= CANDIDATES_MAX:
            raise PeerConnectionError("no parent is needed")
        connection = ParentConnection(username, ip, port, self)
        self.peer_connections.append(connection)
        # Cancelled in the middle, aioslsk would keep a connection that never was for the rest of the session.
        async with _closing_on_error(connection):
            await connection.connect()
            await connection.send_message(PeerInit.Request(self._own_settings.credentials.username, typ, 0))
            connection.set_connection_state(PeerConnectionState.ESTABLISHED)
            await self._bus.emit(PeerInitializedEvent(connection, requested=True))
        return connection

    @property
    def has_room(self) -> bool:
        """Whether one more stranger may come in."""
        return sum(isinstance(one, StrangerConnection) for one in self.peer_connections) < STRANGERS_MAX

    def welcomes(self, username: str) -> bool:
        """Whether this peer may become our child, as far as we are concerned; aioslsk has further conditions."""
        children = self.tree.children
        return len(children) < self._children_max and all(child.username != username for child in children)

    async def on_message_received(self, message: Any, connection: Any) -> None:
        """Hands a message that is not a search to aioslsk, except what only we know how to treat."""
        if isinstance(message, ConnectToPeer.Response):
            self._invite(message)
        elif _is_absurd(message):
            await connection.disconnect(CloseReason.REQUESTED)
        else:
            await super().on_message_received(message, connection)

    def _invite(self, message: ConnectToPeer.Response) -> None:
        """Connects to a peer that cannot reach us and asked for it through the server, if it can become our child.

        The others want our list of files or the like: they get no answer, as we have none.
        """
        if (
            message.typ == PeerConnectionType.DISTRIBUTED
            and message.port
            and self.has_room
            and self.welcomes(message.username)
        ):
            connection = StrangerConnection(message.ip, message.port, self, message.username)
            self.peer_connections.append(connection)
            task = asyncio.create_task(self._connect_to_child(connection, message))
            self._invitations.add(task)
            task.add_done_callback(self._invitations.discard)

    async def _connect_to_child(self, connection: StrangerConnection, message: ConnectToPeer.Response) -> None:
        try:
            async with _closing_on_error(connection):
                await connection.connect()
                if not self.welcomes(message.username):  # any more
                    raise PeerConnectionError("there are children enough")
                await connection.send_message(PeerPierceFirewall.Request(message.ticket))
                connection.set_connection_state(PeerConnectionState.ESTABLISHED)
                await self._bus.emit(PeerInitializedEvent(connection, requested=False))
        except NetworkError:
            refusal = CannotConnect.Request(ticket=message.ticket, username=message.username)
            with contextlib.suppress(NetworkError):
                await self.send_server_messages(refusal)

    async def leave(self) -> None:
        """Lets the connections read what has arrived already, before it is no longer heard."""
        self.leaving.set()
        await asyncio.sleep(LEAVING_SECONDS)

    async def disconnect(self) -> None:
        """Closes every connection and what is on its way to become one."""
        invitations = list(self._invitations)
        for task in invitations:
            task.cancel()
        await asyncio.gather(*invitations, return_exceptions=True)
        await super().disconnect()  # type: ignore[no-untyped-call]


def _is_absurd(message: Any) -> bool:
    """Whether a parent claims a place that cannot be."""
    match message:
        case DistributedBranchLevel.Request():
            return bool(message.level > LEVEL_MAX)
        case DistributedBranchRoot.Request():
            return not 0 < len(message.username) <= USERNAME_MAX
    return False


@contextlib.asynccontextmanager
async def _closing_on_error(connection: ParentConnection | StrangerConnection) -> AsyncIterator[None]:
    try:
        yield
    except BaseException:
        await connection.disconnect(CloseReason.REQUESTED)
        raise
