"""Stands between a collector and PostgreSQL, and breaks the connection in the ways that networks do."""

import asyncio
import contextlib
import enum
import re
import socket
import struct
from collections.abc import Callable
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, quote, urlencode, urlsplit, urlunsplit

COMMIT = re.compile(rb"Q\x00\x00\x00.COMMIT;?\x00", re.DOTALL)
COPY_OUT = re.compile(rb"COPY .+ TO STDOUT", re.DOTALL)


class AtCommit(enum.Enum):
    """What to do with a connection once, when its client sends COMMIT."""

    RESET_BEFORE = "the server never gets it, and sees a reset"
    GHOST = "the server never gets it, and sees no end of the connection: its transaction stays open"
    RESET_DURING = "the server gets it, and the client is cut at once"
    RESET_AFTER = "the server gets it and answers, and the client never hears the answer"


class Proxy:
    """Forwards connections from a free port of 127.0.0.1 to a PostgreSQL server, named by its DSN."""

    def __init__(self, dsn: str) -> None:
        self._upstream = urlsplit(dsn)
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._port = 0
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.at_commit: AtCommit | None = None
        self.commits_broken = 0
        # What to do once, when a COPY … TO STDOUT has told its client so many bytes.
        self.at_copied: tuple[int, Callable[[], None]] | None = None

    @property
    def dsn(self) -> str:
        """The DSN for those who are to go through here."""
        parts = self._upstream
        query = {name: values for name, values in parse_qs(parts.query).items() if name not in {"host", "port"}}
        user = parts.username or query.pop("user", [""])[0]
        login = quote(user, safe="") + (f":{parts.password}" if parts.password else "")
        return urlunsplit(
            ("postgresql", f"{login}@127.0.0.1:{self._port}", parts.path, urlencode(query, doseq=True), "")
        )

    async def __aenter__(self) -> Self:
        await self.up()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.down()
        for link in list(self._links):
            await link.end()

    async def up(self) -> None:
        """Accepts connections, again on the same port."""
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port, limit=2**20)
            self._port = self._server.sockets[0].getsockname()[1]

    async def down(self) -> None:
        """Resets all connections and refuses new ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.flowing.set()
        self.cut()
        await asyncio.sleep(0)

    def cut(self) -> None:
        """Resets all connections; new ones are accepted."""
        for link in list(self._links):
            link.reset()

    def stall(self) -> None:
        """Forwards nothing any more, and tells nobody: what a pulled cable looks like."""
        self.flowing.clear()

    def resume(self) -> None:
        """Ends a stall, with everything that was held back."""
        self.flowing.set()

    def forget(self) -> None:
        """Ends a stall as a NAT does that has forgotten the old connections: they stay silent, new ones work."""
        for link in list(self._links):
            link.is_forgotten = True
        self.flowing.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream = await self._connect()
        except OSError:
            _reset(writer)
            return
        link = _Link(self, (reader, writer), upstream)
        self._links.add(link)
        try:
            await link.run()
        finally:
            self._links.discard(link)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        query = parse_qs(self._upstream.query)
        host = query.get("host", [self._upstream.hostname or "127.0.0.1"])[0]
        port = int(query.get("port", [self._upstream.port or 5432])[0])
        if host.startswith("/"):
            return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}", limit=2**20)
        return await asyncio.open_connection(host, port, limit=2**20)


_Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Link:
    """One client's connection and its other half."""

    def __init__(self, proxy: Proxy, client: _Ends, server: _Ends) -> None:
        self._proxy = proxy
        self._client, self._server = client, server
        self._deaf = False  # the client no longer hears the server
        self._copied: int | None = None  # bytes since a COPY … TO STDOUT began
        self.is_forgotten = False
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        pumps = [self._upward(), self._downward()]
        self._tasks = [asyncio.create_task(pump) for pump in pumps]
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        await self.end()

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await task
        for _, writer in (self._client, self._server):
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def reset(self) -> None:
        _reset(self._client[1])
        _reset(self._server[1])

    async def _upward(self) -> None:
        while data := await self._read(self._client[0]):
            if (fault := self._proxy.at_commit) is not None and COMMIT.search(data):
                self._proxy.at_commit = None
                self._proxy.commits_broken += 1
                await self._break(fault, data)
                return
            if COPY_OUT.search(data):
                self._copied = 0
            self._server[1].write(data)
            await self._drain(self._server[1])

    async def _downward(self) -> None:
        while data := await self._read(self._server[0]):
            await self._count(len(data))
            if not self._deaf:
                self._client[1].write(data)
                await self._drain(self._client[1])

    async def _count(self, number: int) -> None:
        if self._copied is None or self._proxy.at_copied is None:
            return
        self._copied += number
        limit, act = self._proxy.at_copied
        if self._copied > limit:
            self._proxy.at_copied = None
            act()
            await self._proxy.flowing.wait()

    async def _break(self, fault: AtCommit, data: bytes) -> None:
        if fault is AtCommit.RESET_BEFORE:
            self.reset()
            return
        self._deaf = True
        if fault is AtCommit.GHOST:
            _reset(self._client[1])
            await asyncio.Event().wait()
        self._server[1].write(data)
        if fault is AtCommit.RESET_DURING:
            _reset(self._client[1])
        await asyncio.sleep(0.2)
        _reset(self._client[1])

    async def _read(self, reader: asyncio.StreamReader) -> bytes:
        try:
            data = await reader.read(2**18)
        except OSError:
            return b""
        await self._proxy.flowing.wait()
        if self.is_forgotten:
            await asyncio.Event().wait()
        return data

    async def _drain(self, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Closes with RST instead of FIN, where the socket knows the difference."""
    connection = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
