"""Batches on their way to the database: with a backlog two at a time, each over a connection of its own.

While one waits for its commit, the other copies; without that a sixth of the time nobody copies, and more on a long
line. Only the copying overlaps: positions move one after the other, and the later batch takes no lock before the
earlier one is committed.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from collectors.backlog import Batch
from collectors.delivery import Delivery
from soulseek_research.storage.errors import StorageError

logger = logging.getLogger(__name__)


class _Flight(NamedTuple):
    batch: Batch
    task: asyncio.Task[int]
    delivery: Delivery


class Flights:
    """At most two batches in flight.

    Args:
        delivery: the connection for all times.
        open_another: makes the connection for times of backlog.
        on_landed: is told of each batch that is committed, in order, and how many searches it brought.
    """

    def __init__(
        self,
        delivery: Delivery,
        open_another: Callable[[], Awaitable[Delivery]],
        on_landed: Callable[[Batch, int], object],
    ) -> None:
        self._first = delivery
        self._open_another = open_another
        self._on_landed = on_landed
        self._second: Delivery | None = None
        self._alone = False
        self._flying: deque[_Flight] = deque()

    async def send(self, batch: Batch, status: dict[str, Any]) -> None:
        """Lets a batch go, as soon as a connection is free."""
        while len(self._flying) > (0 if self._alone else 1):
            await self._land()
        earlier = self._flying[-1] if self._flying else None
        delivery = self._first
        if earlier is not None and earlier.delivery is self._first:
            delivery = await self._another()
        if earlier is not None and earlier.delivery is delivery:
            await self.land()
            earlier = None

        async def after() -> None:
            if earlier is not None:
                await asyncio.wait({earlier.task})
                earlier.task.result()

        task = asyncio.create_task(delivery.store(batch, status, after=after))
        self._flying.append(_Flight(batch, task, delivery))

    async def land(self) -> None:
        """Waits until all are committed, or raises what kept the first that was not."""
        while self._flying:
            await self._land()

    async def rest(self) -> None:
        """Nothing waits: gives the second connection back."""
        if self._second is not None:
            await self._second.close()
            self._second = None
        self._alone = False

    async def abandon(self) -> None:
        """Lets go of what is in flight; what of it is committed, the database knows."""
        tasks = [flight.task for flight in self._flying]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _land(self) -> None:
        batch, task, _ = self._flying[0]
        rows = await task
        self._flying.popleft()
        self._on_landed(batch, rows)

    async def _another(self) -> Delivery:
        if self._second is None:
            try:
                self._second = await self._open_another()
            except StorageError as error:
                logger.debug("one connection must do: %s", error)
                self._alone = True
                return self._first
        return self._second
