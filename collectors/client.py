"""aioslsk's client, put together for listening: our network and tree, nothing shared, nothing transferred."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Any

from aioslsk.client import SoulSeekClient
from aioslsk.network.network import ListeningConnectionErrorMode
from aioslsk.settings import (
    CredentialsSettings,
    ListeningSettings,
    NetworkSettings,
    ReconnectSettings,
    RoomsSettings,
    ServerSettings,
    Settings,
    SharesSettings,
    UpnpSettings,
)
from aioslsk.transfer.cache import TransferCache
from aioslsk.transfer.manager import TransferManager
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from collectors import children, privacy
from collectors.counts import Counts
from collectors.coverage import Ledger, Role
from collectors.intake import Intake
from collectors.network import DEFAULT_CHILDREN_MAX, ListeningNetwork
from collectors.tree import Tree


@dataclasses.dataclass(frozen=True)
class Vantage:
    """Where and as whom we listen.

    Attributes:
        host: of the Soulseek server.
        port: of the Soulseek server.
        username: our account.
        password: of our account.
        listen_port: where other clients may reach us; 0 for nowhere.
        children_max: how many children to accept; the server may allow fewer.
    """

    host: str
    port: int
    username: str
    password: str = dataclasses.field(repr=False)
    listen_port: int = 0
    children_max: int = DEFAULT_CHILDREN_MAX


@dataclasses.dataclass(frozen=True)
class Ears:
    """What takes the searches that are heard, counts the others, and notes where and when we listened."""

    intake: Intake
    counts: Counts
    ledger: Ledger


class _ClosedSettings(Settings):
    """aioslsk's settings, deaf to environment variables named `DEBUG`, `NETWORK`, `SHARES`, `USERS` ...."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - pydantic's signature
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what the code says counts."""
        return (init_settings,)


def settings(vantage: Vantage) -> Settings:
    """Aioslsk's settings for a listener: it shares nothing, opens no door unasked, and does not reconnect itself."""
    return _ClosedSettings(
        credentials=CredentialsSettings(username=vantage.username, password=vantage.password),
        network=NetworkSettings(
            server=ServerSettings(
                hostname=vantage.host,
                port=vantage.port,
                reconnect=ReconnectSettings(auto=False),
            ),
            listening=ListeningSettings(
                port=vantage.listen_port, obfuscated_port=0, error_mode=ListeningConnectionErrorMode.ANY
            ),
            upnp=UpnpSettings(enabled=False),
        ),
        shares=SharesSettings(scan_on_start=False, directories=[]),
        rooms=RoomsSettings(auto_join=False, private_room_invites=False),
    )


class _NoTransfers(TransferManager):
    """A transfer manager that does nothing: aioslsk's wakes up 24 times a second to look for transfers."""

    async def start(self) -> None:
        """Starts none of its tasks."""


class ListeningClient(SoulSeekClient):
    """One fresh client. It is started, connected, logged in and closed once."""

    network: ListeningNetwork
    distributed_network: Tree

    def __init__(self, vantage: Vantage, ears: Ears, on_place: Callable[[tuple[Role, int] | None], None]) -> None:
        # aioslsk calls our create_... methods from its __init__.
        self.brood = children.Brood()
        self._vantage = vantage
        self._ears = ears
        self._on_place = on_place
        super().__init__(settings(vantage))

    def create_network(self) -> ListeningNetwork:
        """Our network."""
        return ListeningNetwork(self.settings, self.events, children_max=self._vantage.children_max)

    def create_distributed_network(self) -> Tree:
        """Our tree."""
        return Tree(
            self.settings,
            self.events,
            self.network,
            intake=self._ears.intake,
            tally=self._ears.counts,
            ledger=self._ears.ledger,
            brood=self.brood,
            on_place=self._on_place,
        )

    def create_transfer_manager(self, cache: TransferCache) -> TransferManager:
        """No transfers."""
        return _NoTransfers(self.settings, self.events, self.users, self.shares, self.network, cache=cache)

    async def start(self, connect: bool = True) -> None:
        """Starts and, unless told otherwise, connects, under a loop exception handler that names nobody."""
        await super().start(connect=False)
        privacy.guard_loop(asyncio.get_running_loop())
        if connect:
            await self.connect()  # type: ignore[no-untyped-call]

    async def stop(self) -> None:
        """Closes every connection and ends every task."""
        tasks: list[asyncio.Task[Any]] = await self.distributed_network.stop()  # aioslsk forgets this one
        await super().stop()  # type: ignore[no-untyped-call]
        await asyncio.gather(*tasks, return_exceptions=True)
