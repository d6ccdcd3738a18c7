"""Listening to a simulated network: what a test of it needs."""

import asyncio
import contextlib
import logging
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from collectors import privacy, supervisor
from collectors.client import Ears, Vantage
from collectors.counts import Counts
from collectors.coverage import Ledger
from collectors.intake import Intake
from collectors.session import State, Terms
from collectors.supervisor import Patience
from soulseek_research.simulation.network import SimulatedNetwork

ACCOUNT = "listener"
HASTE = Patience(first_seconds=0.02, most_seconds=0.1)


def unveiled(username: str, _timestamp_ms: int) -> str:
    """A pseudonym that hides nothing, so that a test sees who was heard."""
    return username


class Listener:
    """What was heard, counted and told while a collector listened."""

    def __init__(self, username: str = ACCOUNT) -> None:
        self.counts = Counts()
        self.intake = Intake(unveiled, self.counts, own_username=username)
        self.ledger = Ledger(self.counts, unveiled, now=time.time())
        self.ears = Ears(self.intake, self.counts, self.ledger)
        self.states: list[tuple[State, str]] = []
        self.task: asyncio.Task[Any] | None = None
        self._rows: list[tuple[str, int | None, str]] = []

    def on_state(self, state: State, detail: str) -> None:
        self.states.append((state, detail))

    @property
    def heard(self) -> list[tuple[str, int | None, str]]:
        """Username, ticket and query of what was taken in."""
        self._rows += [(row[4], row[1], row[5]) for row in self.intake.take()]
        return self._rows

    def stretches(self) -> list[dict[str, Any]]:
        """The ledger's stretches."""
        return self.ledger.snapshot(time.time())["stretches"]

    @property
    def is_listening(self) -> bool:
        return bool(self.states) and self.states[-1][0] is State.LISTENING

    def times(self, state: State) -> int:
        """How often this state was entered."""
        return sum(one is state for one, _ in self.states)

    async def until(self, condition: Callable[[], bool], seconds: float = 10.0) -> None:
        """Waits until something is true.

        Raises:
            TimeoutError: it did not become true.
        """
        async with asyncio.timeout(seconds):
            while not condition():
                if self.task is not None and self.task.done():
                    await self.task
                await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def listening(
    network: SimulatedNetwork,
    *,
    username: str = ACCOUNT,
    listen_port: int = 0,
    children_max: int = 10,
    terms: Terms | None = None,
    patience: Patience = HASTE,
) -> AsyncIterator[Listener]:
    """Listens to the network until the end of the block."""
    listener = Listener(username)
    host, port = network.server_address
    vantage = Vantage(host, port, username, "secret", listen_port=listen_port, children_max=children_max)
    listener.task = asyncio.create_task(
        supervisor.listen_forever(vantage, listener.ears, terms=terms, patience=patience, on_state=listener.on_state)
    )
    try:
        yield listener
    finally:
        listener.task.cancel()
        await asyncio.gather(listener.task, return_exceptions=True)


@contextlib.contextmanager
def private_logs(*, debug: bool) -> Iterator[None]:
    """Installs the guard over the logs, and takes it away again."""
    factory, hook, level = logging.getLogRecordFactory(), sys.unraisablehook, logging.root.level
    privacy.install(debug=debug)
    try:
        yield
    finally:
        logging.setLogRecordFactory(factory)
        sys.unraisablehook = hook
        logging.root.setLevel(level)
        for name in list(logging.root.manager.loggerDict):
            if privacy.is_talkative(name):
                logging.getLogger(name).removeFilter(privacy.SCRUB)
                logging.getLogger(name).setLevel(logging.NOTSET)
