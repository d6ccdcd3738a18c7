"""The predecessor's way of listening, as its users ran it, in a process of its own.

    python -m tests.benchmarks.predecessor HOST:PORT        (database and password as for our collector)

aioslsk as it comes, its event for a search, a SHA-256 of the username, a line in the log for each search, and every
10,000 searches (or 10 seconds) all of them through SQLAlchemy's ORM, while the listener waits.
"""

import asyncio
import datetime as dt
import hashlib
import logging
import os
import signal
import sys

from aioslsk.client import SoulSeekClient
from aioslsk.events import SearchRequestReceivedEvent
from aioslsk.network.network import ListeningConnectionErrorMode
from aioslsk.settings import (
    CredentialsSettings,
    ListeningSettings,
    NetworkSettings,
    ServerSettings,
    Settings,
    SharesSettings,
    UpnpSettings,
)
from sqlalchemy import DateTime, String, Text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

BATCH_SEARCHES = 10_000
BATCH_SECONDS = 10.0

logger = logging.getLogger(__name__)


class Base(DeclarativeBase):
    """The tables."""


class Search(Base):
    """One search."""

    __tablename__ = "searches"

    id: Mapped[int] = mapped_column(primary_key=True)
    client_id: Mapped[str] = mapped_column(String(50))
    timestamp: Mapped[dt.datetime] = mapped_column(DateTime(timezone=True))
    username: Mapped[str] = mapped_column(String(255))
    query: Mapped[str] = mapped_column(Text)


class Predecessor:
    """One collector of the old kind."""

    def __init__(self, settings: Settings, sessions: async_sessionmaker[AsyncSession]) -> None:
        self._sessions = sessions
        self._queue: list[Search] = []
        self._client = SoulSeekClient(settings)
        self._client.events.register(SearchRequestReceivedEvent, self._on_search)

    async def run(self, stopping: asyncio.Event) -> None:
        """Listen until told to stop."""
        await self._client.start()
        await self._client.login()
        while not stopping.is_set():
            try:
                async with asyncio.timeout(BATCH_SECONDS):
                    await stopping.wait()
            except TimeoutError:
                pass
            await self._flush()
        await self._client.stop()  # type: ignore[no-untyped-call]

    async def _on_search(self, event: SearchRequestReceivedEvent) -> None:
        logger.info("Search received: %s... from %s...", event.query[:50], event.username[:10])
        self._queue.append(
            Search(
                client_id="bench",
                timestamp=dt.datetime.now(dt.UTC),
                username=hashlib.sha256(event.username.encode()).hexdigest(),
                query=event.query,
            )
        )
        if len(self._queue) >= BATCH_SEARCHES:
            await self._flush()

    async def _flush(self) -> None:
        batch, self._queue = self._queue, []
        if batch:
            async with self._sessions() as session:
                session.add_all(batch)
                await session.commit()


async def main(address: str, password: str, database_url: str) -> None:
    """Run it until SIGTERM."""
    host, _, port = address.rpartition(":")
    engine = create_async_engine(database_url.replace("postgresql://", "postgresql+asyncpg://", 1))
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    settings = Settings(
        credentials=CredentialsSettings(username="bench", password=password),
        network=NetworkSettings(
            server=ServerSettings(hostname=host, port=int(port)),
            # Its users had a listening port; a benchmark opens none to the world.
            listening=ListeningSettings(port=0, obfuscated_port=0, error_mode=ListeningConnectionErrorMode.ANY),
            upnp=UpnpSettings(enabled=False),
        ),
        shares=SharesSettings(directories=[], scan_on_start=False),
    )
    await Predecessor(settings, async_sessionmaker(engine)).run(stopping)
    await engine.dispose()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s - %(name)s - %(levelname)s - %(message)s")
    environment = os.environ
    asyncio.run(
        main(sys.argv[1], environment["SOULSEEK_RESEARCH_PASSWORD"], environment["SOULSEEK_RESEARCH_DATABASE_URL"])
    )
