"""A branch of the tree: its root and the parents that it offers, each a peer that listens on a port of its own."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Container, Sequence

from . import frames, sockets
from .frames import messages


class Child:
    """A client that took one of our parents for its own, or is considering it."""

    def __init__(self, username: str, writer: asyncio.StreamWriter) -> None:
        self.username = username
        self.writer = writer

    def write(self, data: bytes) -> bool:
        """Hand bytes to the connection; False when it is gone."""
        return sockets.write(self.writer, data)


class Parent:
    """One peer of a branch that accepts children.

    Args:
        username: its name on the network.
        level: how far it stands from its branch root; 0 is the root itself.
        root: the username of its branch root.
        host: the address to listen on.
    """

    def __init__(self, username: str, level: int, root: str, *, host: str = frames.LOCALHOST) -> None:
        self.username = username
        self.level = level
        self.root = root
        self.children: list[Child] = []
        self.arrivals = 0
        """How many D connections were opened to it, ever."""
        self.listener = sockets.Listener(self._serve, host)

    @property
    def port(self) -> int:
        """The port it listens on; 0 when it does not."""
        return self.listener.port

    def greeting(self) -> bytes:
        """What a child is told first: the level, and the root unless this is it."""
        level = frames.serialise(messages.DistributedBranchLevel.Request(self.level))
        if self.level == 0:
            return level
        return level + frames.serialise(messages.DistributedBranchRoot.Request(self.root))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        frame = await frames.read(reader)
        if frame is None:
            return
        try:
            init = messages.PeerInitializationMessage.deserialize_request(frame)
        except Exception:  # noqa: BLE001 - whatever is not an init message ends the connection
            return
        if isinstance(init, messages.PeerInit.Request) and init.typ == "D":
            await self.adopt(init.username, reader, writer)

    async def adopt(self, username: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Greet a child and keep it until it goes."""
        self.arrivals += 1
        child = Child(username, writer)
        writer.write(self.greeting())
        self.children.append(child)
        try:
            while await frames.read(reader) is not None:
                pass
        finally:
            self.children.remove(child)

    def lose(self, username: str | None = None, *, reset: bool = False) -> None:
        """End the connections to its children, or to this one, by FIN or by RST."""
        for child in self.children:
            if username in (None, child.username):
                sockets.end(child.writer, reset=reset)


class Branch:
    """One branch root and what hangs below it: everything it hears goes to the children of all its parents.

    Args:
        number: which branch of the network this is.
        levels: one parent for each of these levels. Where 0 is not among them, the root itself takes no children.
        host: the address its peers listen on.
    """

    def __init__(self, number: int, levels: Sequence[int], *, host: str = frames.LOCALHOST) -> None:
        self.number = number
        self.root = f"root{number}"
        count = itertools.count(1)
        self.parents = [
            Parent(self.root if level == 0 else f"{self.root}.{next(count)}", level, self.root, host=host)
            for level in levels
        ]

    async def start(self) -> None:
        """Listen, each parent on a free port."""
        for parent in self.parents:
            await parent.listener.start()

    async def stop(self) -> None:
        """Close every connection and listener."""
        for parent in self.parents:
            await parent.listener.stop()

    def children(self) -> list[Child]:
        """Everyone connected to one of its parents."""
        return list(itertools.chain.from_iterable(parent.children for parent in self.parents))

    def write(self, data: bytes, deaf: Container[str] = ()) -> tuple[str, ...]:
        """Write bytes to all children but these, and name those that took them."""
        return tuple(child.username for child in self.children() if child.username not in deaf and child.write(data))

    async def drain(self) -> None:
        """Wait until every child has room for more."""
        for child in self.children():
            await sockets.drain(child.writer)
