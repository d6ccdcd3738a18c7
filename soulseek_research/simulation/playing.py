"""The people's searches on their way to the branches: by which, when, and in one piece where many are due."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import time
from collections import deque
from collections.abc import Iterator
from itertools import chain, islice
from typing import TYPE_CHECKING

from .branch import Branch
from .manifest import Delivery, Sent
from .searchers import Search

if TYPE_CHECKING:
    from .network import SimulatedNetwork

TICK_SECONDS = 0.005
# How many searches go out between two looks at the sockets, when they go as fast as the sockets take them.
BULK = 512


class Player:
    """Plays a stream of searches into a network.

    Args:
        network: whose branches and server carry them.
        overlap: the share of searches that all branches carry.
        delay_seconds: how much later each further branch carries a search.
        speed: how much faster than the clock.
    """

    def __init__(self, network: SimulatedNetwork, *, overlap: float, delay_seconds: float, speed: float) -> None:
        self._network = network
        self._overlap = overlap
        self._delay_seconds = delay_seconds
        self._speed = speed
        self._routes = random.Random(f"{network.seed} routes")
        self._routed: list[list[Sent]] = [[] for _ in network.branches]
        self._pending: list[deque[tuple[float, list[Sent]]]] = [deque() for _ in network.branches]
        self._task: asyncio.Task[None] | None = None

    def start(self, stream: Iterator[Search], *, at_once: bool = False) -> None:
        """Begin; with `at_once`, as fast as the connections take it."""
        play = self._play_at_once(stream) if at_once else self._play(stream)
        self._task = asyncio.create_task(play, name="simulated people")

    async def stop(self) -> None:
        """End, whatever is on its way."""
        if self._task is not None:
            task, self._task = self._task, None
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _play(self, stream: Iterator[Search]) -> None:
        search = await _first(stream)
        loop = asyncio.get_running_loop()
        began = loop.time()
        while True:
            due = (loop.time() - began) * self._speed
            for _ in range(BULK):
                if search.at_seconds > due:
                    break
                self._route(search)
                search = next(stream)
            # The clock again: under load the searches took a while to make.
            self._flush(loop.time() - began)
            await asyncio.sleep(TICK_SECONDS if search.at_seconds > due else 0)

    async def _play_at_once(self, stream: Iterator[Search]) -> None:
        stream = chain([await _first(stream)], stream)
        while True:
            if not self._network.is_heard():
                await asyncio.sleep(TICK_SECONDS)
                continue
            for search in islice(stream, BULK):
                self._route(search)
            self._flush(math.inf)
            await self._network.drain()
            await asyncio.sleep(0)

    def _route(self, search: Search) -> None:
        query = search.query.encode() if search.raw is None else search.raw
        sent = self._network.sent.add(search.username.encode(), search.ticket, query, search.kind)
        if self._routes.random() < self._overlap:
            for routed in self._routed:
                routed.append(sent)
        else:
            self._routes.choice(self._routed).append(sent)

    def _flush(self, now: float) -> None:
        """Let each branch carry what is due; what was routed just now is due for the first branch, later for others."""
        for branch, routed, pending in zip(self._network.branches, self._routed, self._pending, strict=True):
            if routed:
                pending.append((now + branch.number * self._delay_seconds, list(routed)))
                routed.clear()
            while pending and pending[0][0] <= now:
                self._write(branch, pending.popleft()[1])

    def _write(self, branch: Branch, batch: list[Sent]) -> None:
        """Let a branch carry these, in one piece."""
        network = self._network
        data = b"".join([sent.frame("parent") for sent in batch])
        deliveries = [Delivery("parent", branch.number, time.time(), network.write_from(branch, data))]
        if not network.offers_parents:
            data = b"".join([sent.frame("server") for sent in batch])
            heard_by = network.write_from_server(data, "server", branch=branch)
            deliveries.append(Delivery("server", branch.number, time.time(), heard_by))
        for sent in batch:
            for delivery in deliveries:
                network.sent.deliver(sent, delivery)


async def _first(stream: Iterator[Search]) -> Search:
    """The first search; with it the people are made, which takes a second where they are many."""
    return await asyncio.to_thread(next, stream)
