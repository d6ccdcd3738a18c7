"""An ordinary aioslsk client that writes down what it hears: no listening port, no shares."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from aioslsk import events, settings
from aioslsk.client import SoulSeekClient
from aioslsk.network.network import ListeningConnectionErrorMode
from aioslsk.protocol import messages

SEARCHES = (
    messages.DistributedSearchRequest.Request,
    messages.DistributedServerSearchRequest.Request,
    messages.ServerSearchRequest.Response,
    messages.FileSearch.Response,
)


class PlainClient:
    """One aioslsk client, as it comes.

    Attributes:
        heard: Class name, username, ticket and query of each search message, whoever sent it.
        kicked: How often the server said so.
    """

    def __init__(
        self, address: tuple[str, int], username: str = "collector", *, password: str = "any", port: int = 0
    ) -> None:
        host, server_port = address
        self.heard: list[tuple[str, str, int, str]] = []
        self.kicked = 0
        self.client = SoulSeekClient(
            settings.Settings(
                credentials=settings.CredentialsSettings(username=username, password=password),
                network=settings.NetworkSettings(
                    server=settings.ServerSettings(hostname=host, port=server_port),
                    listening=settings.ListeningSettings(
                        port=port, obfuscated_port=0, error_mode=ListeningConnectionErrorMode.ANY
                    ),
                    upnp=settings.UpnpSettings(enabled=False),
                ),
                shares=settings.SharesSettings(scan_on_start=False),
            )
        )
        # Held by weak reference only: a bound method of an object that lives is safe.
        self.client.events.register(events.MessageReceivedEvent, self._on_message)
        self.client.events.register(events.KickedEvent, self._on_kicked)

    @property
    def identities(self) -> list[tuple[str, int, str]]:
        return [search[1:] for search in self.heard]

    @property
    def parent(self) -> Any:
        return self.client.distributed_network.parent

    def _on_message(self, event: events.MessageReceivedEvent) -> None:
        message: Any = event.message
        if isinstance(message, SEARCHES):
            name = type(message).__qualname__.partition(".")[0]
            self.heard.append((name, message.username, message.ticket, message.query))

    def _on_kicked(self, _: events.KickedEvent) -> None:
        self.kicked += 1


async def until(condition: Callable[[], object], seconds: float = 10) -> None:
    """Wait until something has become true, looking again and again."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def connected(
    address: tuple[str, int], username: str = "collector", **options: Any
) -> AsyncIterator[PlainClient]:
    """A client that is started but not yet logged in."""
    plain = PlainClient(address, username, **options)
    try:
        await plain.client.start()
        yield plain
    finally:
        await plain.client.stop()


@contextlib.asynccontextmanager
async def logged_in(
    address: tuple[str, int], username: str = "collector", **options: Any
) -> AsyncIterator[PlainClient]:
    """A client that is logged in; it may not have a parent yet."""
    async with connected(address, username, **options) as plain:
        await plain.client.login()
        yield plain
