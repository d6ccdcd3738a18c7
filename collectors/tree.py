"""Our place in the distributed tree: who the parent is, which searches are believed, and who hears them from us."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from aioslsk.distributed import DistributedNetwork
from aioslsk.events import (
    ConnectionStateChangedEvent,
    EventBus,
    MessageReceivedEvent,
    PeerInitializedEvent,
    SessionInitializedEvent,
)
from aioslsk.network.connection import CloseReason, ConnectionState, PeerConnection
from aioslsk.protocol.messages import DistributedBranchLevel, DistributedBranchRoot
from aioslsk.settings import Settings

from collectors import counts, frames
from collectors.children import Brood
from collectors.connections import ParentConnection, StrangerConnection
from collectors.search import Source

if TYPE_CHECKING:
    from collectors.coverage import Ledger, Role
    from collectors.intake import Intake
    from collectors.network import ListeningNetwork

PARENT_LOST: Final = "parent lost"
# aioslsk's own listeners stand at 100: some of ours must see what was before them, others what they made of it.
_BEFORE_AIOSLSK = 50
_AFTER_AIOSLSK = 200


class Tree(DistributedNetwork):
    """aioslsk's distributed network, which believes its parent and the server and nobody else.

    Args:
        settings: aioslsk's.
        event_bus: aioslsk's.
        network: of the same session; it finds this object in its attribute `tree`.
        intake: takes the believed searches.
        ledger: is told our place.
        brood: sends to the children.
        on_place: called with role and level when a first search has proved a new place, and with None when a place is
            lost.

    Attributes:
        heard_at: when a believed search last proved that we are not starving (monotonic seconds), or None.
    """

    def __init__(
        self,
        settings: Settings,
        event_bus: EventBus,
        network: ListeningNetwork,
        *,
        intake: Intake,
        tally: counts.Counts,
        ledger: Ledger,
        brood: Brood,
        on_place: Callable[[tuple[Role, int] | None], None],
    ) -> None:
        self.heard_at: float | None = None
        self._intake = intake
        self._counts = tally
        self._ledger = ledger
        self._brood = brood
        self._on_place = on_place
        self._own_name = settings.credentials.username
        self._place: tuple[Role, int, str] | None = None
        self._unproved = True
        self._logged_in = False
        self._over = False
        super().__init__(settings, event_bus, network)
        network.tree = self

    def register_listeners(self) -> None:
        """Listens to what moves us in the tree. The bus holds its listeners weakly: bound methods live as we do."""
        super().register_listeners()  # type: ignore[no-untyped-call]
        bus = self._event_bus  # aioslsk's own name for it; it calls this from its __init__
        bus.register(SessionInitializedEvent, self._on_login, priority=_BEFORE_AIOSLSK)
        bus.register(ConnectionStateChangedEvent, self._on_closing, priority=_BEFORE_AIOSLSK)
        bus.register(MessageReceivedEvent, self._on_branch_values, priority=_AFTER_AIOSLSK)
        bus.register(PeerInitializedEvent, self._on_new_peer, priority=_AFTER_AIOSLSK)

    # What is heard

    def hear_distributed(self, connection: ParentConnection, frame: bytes) -> None:
        """A distributed search from one of the peers that the server offered."""
        if self._is_parent(connection):
            self._believe(Source.DISTRIBUTED, frame)
        else:
            self._counts.refuse(counts.NOT_FROM_PARENT)

    def hear_embedded(self, connection: ParentConnection, frame: bytes) -> None:
        """The server's own message from one of the peers that the server offered."""
        if self._is_parent(connection):
            self._unwrapped(Source.EMBEDDED, frames.inner_of_distributed(frame))
        else:
            self._counts.refuse(counts.NOT_FROM_PARENT)

    def hear_server(self, frame: bytes) -> None:
        """A distributed search from the server: it takes us for a branch root."""
        if not self._logged_in:
            self._counts.refuse(counts.BEFORE_LOGIN)
            return
        if self._place is None:
            self._stand("branch root", 0, self._own_name)
        self._unwrapped(Source.SERVER, frames.inner_of_server(frame))

    def hear_addressed(self, frame: bytes) -> None:
        """A search that the server passes to us alone; it proves no place in the tree, and is not for children."""
        if not self._logged_in:
            self._counts.refuse(counts.BEFORE_LOGIN)
            return
        self._take(Source.ADDRESSED, frames.parse_addressed(frame), frame)

    def refuse_stranger(self) -> None:
        """A search from somebody who has no business to send us one."""
        self._counts.refuse(counts.NOT_FROM_PARENT)

    def refuse_oversized(self, number: int) -> None:
        """Somebody announced frames that are longer than anything we take."""
        self._counts.refuse(counts.OVERSIZED, number)

    def leave(self, reason: str) -> None:
        """Ends our place in the tree with the session: what still comes while it closes is not heard."""
        self._over = True
        self._ledger.lost(reason)

    def _is_parent(self, connection: PeerConnection) -> bool:
        parent = self.parent
        return parent is not None and parent.connection is connection

    def _unwrapped(self, source: Source, inner: bytes) -> None:
        code = frames.distributed_code(inner)
        if code == frames.DISTRIBUTED_SEARCH:
            self._believe(source, inner)
        else:
            self._counts.refuse(counts.UNREADABLE if code < 0 else counts.WRONG_CODE)

    def _believe(self, source: Source, frame: bytes) -> None:
        self._take(source, frames.parse_distributed(frame), frame)

    def _take(self, source: Source, search: frames.Search | None, frame: bytes) -> None:
        if self._over:
            return
        if search is None:
            self._counts.refuse(counts.UNREADABLE)
            return
        if len(frame) > frames.SEARCH_FRAME_MAX_BYTES:  # possible from the server only, whose other messages are long
            self._counts.refuse(counts.OVERSIZED)
            return
        addressed = source is Source.ADDRESSED
        if not addressed:
            self._brood.send(frame)
        if not addressed or self._place is None:  # who has a place in the tree and hears nothing there is starving
            self.heard_at = time.monotonic()
        now = time.time()  # one moment for both, or a search could lie outside of the stretch in which it was heard
        self._ledger.heard(now, addressed=addressed)
        self._intake.hear(source, *search, now)
        if self._unproved:
            self._prove(addressed=addressed)

    # Where we are

    def _stand(self, role: Role, level: int, root: str) -> None:
        if self._place == (role, level, root):
            return
        self._place, self._unproved = (role, level, root), True
        self._ledger.place(role, level, root, time.time())

    def _prove(self, *, addressed: bool) -> None:
        if self._place is None:
            self._unproved = False
            self._on_place(("addressed", 0))
        elif not addressed:
            self._unproved = False
            self._on_place(self._place[:2])

    async def _on_login(self, _event: SessionInitializedEvent) -> None:
        self._logged_in = True

    async def _on_closing(self, event: ConnectionStateChangedEvent) -> None:
        if event.state is ConnectionState.CLOSING and isinstance(event.connection, PeerConnection):
            self._brood.remove(event.connection)
            if self._is_parent(event.connection) and not self._over:
                self._place, self._unproved = None, True
                self._ledger.lost(PARENT_LOST)
                self._on_place(None)

    async def _on_branch_values(self, event: MessageReceivedEvent) -> None:
        if not isinstance(event.message, DistributedBranchLevel.Request | DistributedBranchRoot.Request):
            return
        parent = self.parent
        if parent is None or parent.connection is not event.connection:
            return
        if parent.branch_level is not None and parent.branch_root is not None:
            level = 0 if parent.branch_root == self._own_name else parent.branch_level + 1
            self._stand("child", level, parent.branch_root)

    # Who hears it from us

    async def send_messages_to_children(self, *messages: Any) -> None:
        """Sends messages or frames to all children, each serialised once, in the order of the searches."""
        for message in messages:
            self._brood.send(message if isinstance(message, bytes) else message.serialize())

    async def _on_new_peer(self, event: PeerInitializedEvent) -> None:
        connection = event.connection
        if any(child.connection is connection for child in self.children):
            self._brood.add(connection)
        elif isinstance(connection, StrangerConnection):
            # Somebody whom the server offered us as a parent: aioslsk makes no child of it, but lets it be.
            await connection.disconnect(CloseReason.REQUESTED)

    async def stop(self) -> list[asyncio.Task[Any]]:
        """Stops looking for parents and sending to children.

        Returns:
            The cancelled tasks, to be waited for.
        """
        await self._brood.stop()
        tasks: list[asyncio.Task[Any]] = await super().stop()
        return tasks
