"""What a collector takes of an ordinary machine on an ordinary day: processor and memory at the rates that are seen."""

import dataclasses

from tests.benchmarks import feed, listeners, measure
from tests.benchmarks.feed import Feed
from tests.benchmarks.listeners import Listener
from tests.benchmarks.measure import Figure
from tests.benchmarks.store import Store

# What one ordinary node hears, and what a collector is to be for.
RATES = 47, 100
# So fast it meets the people of half a day, whose names it then remembers.
WARM_UP_RATE = 3_000
CORE_PERCENT = 1.0
MEGABYTES = 100.0


@dataclasses.dataclass(frozen=True)
class Scale:
    """What is heard before, and for how long each rate is watched."""

    warm_up: int = 30_000
    seconds: float = 20.0


async def figures(store: Store, scale: Scale) -> list[Figure]:
    """Of one collector, the command alone; the database is another process."""
    found: list[Figure] = []
    async with feed.feeding() as feeder, store.searches() as searches:
        async with listeners.collector(feeder, searches.dsn, store.folder()) as listener:
            await feeder.feed(scale.warm_up, WARM_UP_RATE)
            await searches.arrived(scale.warm_up)
            for rate in RATES:
                found += await _at(rate, feeder, listener, scale.seconds)
            await listener.stop()
        await searches.assert_each_once(0, feeder.fed)
    return found


async def _at(rate: int, feeder: Feed, listener: Listener, seconds: float) -> list[Figure]:
    began, slept = listener.cpu_seconds(), measure.wakeups(listener.pid)
    took = await feeder.feed(int(rate * seconds), rate)
    share = 100 * (listener.cpu_seconds() - began) / took
    wakeups = (measure.wakeups(listener.pid) - slept) / took
    memory = measure.peak_megabytes(listener.pid)
    return [
        measure.at_most(Figure(f"processor at {rate} searches/s", share, "% of a core"), CORE_PERCENT),
        Figure(f"wake-ups at {rate} searches/s", wakeups, "a second"),
        measure.at_most(Figure(f"peak memory at {rate} searches/s", memory, "MB"), MEGABYTES),
    ]
