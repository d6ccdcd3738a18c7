"""How many searches a second of processor time brings from the wire to the committed row, and the predecessor's way."""

import dataclasses
import statistics

from tests.benchmarks import feed, listeners, measure
from tests.benchmarks.feed import Feed
from tests.benchmarks.listeners import Listener
from tests.benchmarks.measure import Figure
from tests.benchmarks.store import Searches, Store

RATIO = 4.0


@dataclasses.dataclass(frozen=True)
class Scale:
    """How much is fed. The predecessor's come in whole batches, so that none waits at the end.

    Attributes:
        warm_up: fed before, not measured, so that what is made once, and the names of a day, are there.
    """

    runs: int = 3
    warm_up: int = 50_000
    searches: int = 150_000
    predecessor_warm_up: int = 10_000
    predecessor_searches: int = 30_000


async def figures(store: Store, scale: Scale) -> list[Figure]:
    """Both ways by turns, so that whatever else the machine does is shared by both."""
    ours: list[float] = []
    theirs: list[float] = []
    # The predecessor stores nothing of a batch that holds a hostile string, so here there are none.
    async with feed.feeding("--hostile-share", "0") as feeder:
        for _ in range(scale.runs):
            ours.append(await _collector(store, feeder, scale))
            theirs.append(await _predecessor(store, feeder, scale))
    ratio = statistics.median(ours) / statistics.median(theirs)
    figure = measure.median("from the wire to the committed row", ours, "searches per CPU-second")
    return [
        measure.at_least(figure, ratio, RATIO, f"{RATIO:g} times the predecessor's"),
        measure.median("the predecessor's way", theirs, "searches per CPU-second"),
    ]


async def _collector(store: Store, feeder: Feed, scale: Scale) -> float:
    async with store.searches() as searches:
        first = feeder.fed
        async with listeners.collector(feeder, searches.dsn, store.folder()) as listener:
            rate = await _measured(feeder, listener, searches, scale.warm_up, scale.searches)
            await listener.stop()
        await searches.assert_each_once(first, scale.warm_up + scale.searches)
    return rate


async def _predecessor(store: Store, feeder: Feed, scale: Scale) -> float:
    async with store.searches(migrated=False) as searches:
        number = scale.predecessor_warm_up + scale.predecessor_searches
        async with listeners.predecessor(feeder, searches.dsn, store.folder()) as listener:
            rate = await _measured(feeder, listener, searches, scale.predecessor_warm_up, scale.predecessor_searches)
            await listener.stop()
        assert await searches.count() == number
    return rate


async def _measured(feeder: Feed, listener: Listener, searches: Searches, warm_up: int, number: int) -> float:
    """Rows committed per CPU-second of the process, everything included that it did for them."""
    await feeder.feed(warm_up)
    rows = await searches.arrived(warm_up)
    seconds = listener.cpu_seconds()
    await feeder.feed(number)
    rows = await searches.arrived(warm_up + number) - rows
    return rows / (listener.cpu_seconds() - seconds)
