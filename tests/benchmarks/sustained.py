"""How many searches a second are kept without loss for as long as they come, and with children to pass them on to."""

import asyncio
import dataclasses

from tests.benchmarks import feed, listeners
from tests.benchmarks.feed import Feed
from tests.benchmarks.measure import Figure
from tests.benchmarks.store import Searches, Store

# What a collector is designed for.
RATE = 10_000
UNIT = "searches/s"
# The feeder has to keep its pace, nearly: where the socket makes it wait, the collector does not keep up.
LATE = 1.05
# After the last search was sent, everything is in the database within this time, and the spool is empty.
SETTLE_SECONDS = 2.0


@dataclasses.dataclass(frozen=True)
class Scale:
    """How long each rate is tried, and how finely the highest is looked for."""

    seconds: float = 3.0
    first_rate: int = RATE
    doublings: int = 4
    bisections: int = 2
    children: int = 5


async def figures(store: Store, scale: Scale) -> list[Figure]:
    """The highest rate of those tried, without children and with them."""
    alone = await _highest(store, scale, children=0)
    required = f"at least {RATE:,} {UNIT}"
    forwarding = await _highest(store, scale, scale.children)
    ratio = forwarding / alone if alone else None
    return [
        Figure("sustained without loss", alone, UNIT, required=required, met=alone >= RATE),
        Figure(f"the same with {scale.children} children", forwarding, UNIT, ratio),
    ]


async def _highest(store: Store, scale: Scale, children: int) -> float:
    async with feed.feeding() as feeder, store.searches() as searches:
        async with listeners.collector(feeder, searches.dsn, store.folder()) as listener:
            if children:
                await feeder.children(children)
            highest = await _search(feeder, searches, scale)
            heard = await _children_heard(feeder) if children else []
            await listener.stop()
        await searches.assert_each_once(0, feeder.fed)
    assert all(number == feeder.fed for number in heard), f"children were sent {heard} of {feeder.fed} searches"
    return highest


async def _search(feeder: Feed, searches: Searches, scale: Scale) -> float:
    """Doubles the rate until it is too much, then looks between."""
    good, bad, rate = 0, 0, scale.first_rate
    for _ in range(scale.doublings):
        if not await _is_sustained(feeder, searches, rate, scale.seconds):
            bad = rate
            break
        good, rate = rate, 2 * rate
    for _ in range(scale.bisections if bad else 0):
        middle = (good + bad) // 2
        if await _is_sustained(feeder, searches, middle, scale.seconds):
            good = middle
        else:
            bad = middle
    return float(good)


async def _is_sustained(feeder: Feed, searches: Searches, rate: int, seconds: float) -> bool:
    took = await feeder.feed(int(rate * seconds), rate)
    try:
        await searches.arrived(feeder.fed, SETTLE_SECONDS)
    except TimeoutError:
        await searches.arrived(feeder.fed)
        return False
    return took <= seconds * LATE


async def _children_heard(feeder: Feed) -> list[int]:
    """How many searches each child was sent, once the last have had time to arrive."""
    heard: list[int] = []
    while (now := list((await feeder.children_heard()).values())) != heard:
        heard = now
        await asyncio.sleep(0.5)
    return heard
