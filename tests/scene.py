"""A collector in somebody else's network; in the end, what was forwarded to it beside what it kept."""

import dataclasses
import itertools
import math
import random
import secrets
import time
from collections import Counter
from pathlib import Path

from tests import forwarded, kept
from tests.collector_process import Collector, data_dir
from tests.forwarded import Forwarded, Search
from tests.kept import Kept
from tests.program import until
from tests.third_party import Feed, Network, Searcher

WORDS = (
    "miles davis", "кино группа крови", "中島みゆき 糸", "방탄소년단", "أم كلثوم", "שלמה ארצי", "mötley crüe",
    "beyoncé", "ελληνικά τραγούδια", "ปาล์มมี่", "🎵 lofi 🎧", "flac 24bit", "discography 1971", "live at leeds",
)  # fmt: skip
# A client that quits drops what it has noted and not sent yet.
QUITTING_SECONDS = 1.0
LOGGED_IN = "logged in:"  # as the collector's log has it


@dataclasses.dataclass(frozen=True)
class Life:
    """One process of the collector.

    Attributes:
        died: when it was killed (Unix seconds); infinity when it was stopped.
        heard: what was forwarded to it, in order.
        due: what of it should have been kept.
        stored: what is in the table.
    """

    died: float
    heard: list[Forwarded]
    due: list[Forwarded]
    stored: list[Search]

    @property
    def lost(self) -> list[Forwarded]:
        """What came after all that was stored."""
        return self.due[len(self.stored) :]

    def __str__(self) -> str:
        line = (
            f"forwarded {len(self.heard)}, repeats {len(self.heard) - len(self.due)}, "
            f"stored {len(self.stored)}, lost {len(self.lost)}"
        )
        if not self.lost or math.isinf(self.died):
            return line
        living = sum(one.at <= self.died for one in self.lost)
        return f"{line} ({living} before its death, the first {self.died - self.lost[0].at:.3f} s before)"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How it ended.

    Attributes:
        lives: the collector's processes, one after the other.
        never_forwarded: when searchers sent what never reached the tap (Unix seconds).
    """

    kept: Kept
    lives: list[Life]
    never_forwarded: list[float]

    def missing(self) -> Counter[Search]:
        """What should be in the table and is not."""
        return self._due() - Counter(self.kept.searches)

    def extra(self) -> Counter[Search]:
        """What is in the table and should not be, or too often, or otherwise."""
        return Counter(self.kept.searches) - self._due()

    def __str__(self) -> str:
        lines = [f"process {number}: {life}" for number, life in enumerate(self.lives, 1)]
        lines += [f"never forwarded {len(self.never_forwarded)}"]
        lines += [
            f"{one['started_at']:%H:%M:%S.%f} to {one['ended_at']:%H:%M:%S.%f} {one['role']} at level "
            f"{one['branch_level']}: kept {one['kept']}, duplicates {one['duplicates']}, refused {one['refused']}, "
            f"dropped {one['dropped']}; {one['end_reason']}"
            for one in self.kept.stretches
        ]
        return "\n".join([*lines, *(f"gap: {one}" for one in self.kept.gaps)])

    def _due(self) -> Counter[Search]:
        return Counter(one.search for life in self.lives for one in life.due)


class Scene:
    """A network with a collector in it.

    Attributes:
        account: the collector's, a name that occurs nowhere else.
        parents: those that were started, the nearest to the server first.
    """

    def __init__(self, network: Network, folder: Path) -> None:
        self.network = network
        self.folder = folder
        self.account = f"listener-{secrets.token_hex(4)}"
        self._mark = secrets.token_hex(4)
        self._collector: Collector | None = None
        self._searchers: list[Searcher] = []
        self.parents: list[Searcher] = []
        self._deaths: list[float] = []

    @property
    def collector(self) -> Collector:
        assert self._collector is not None
        return self._collector

    @property
    def names(self) -> list[str]:
        """Of everybody."""
        return [self.account, *(one.name for one in [*self._searchers, *self.parents])]

    def collect(self, *options: str) -> Collector:
        """Starts a collector, and waits until it has logged in."""
        before = self._collector.said().count(LOGGED_IN) if self._collector is not None else 0
        self._collector = Collector(self.account, self.network.address, self.folder, *options)
        self._collector.says(LOGGED_IN, times=before + 1, seconds=60)
        return self._collector

    def parent(self, letter: str) -> Searcher:
        """A client that searches once, so that the server makes it a branch root, and forwards what others search."""
        parent = self.network.start_searcher(self._name(letter), queries(letter, 1), rate=1)
        parent.has_sent_all()
        self.parents.append(parent)
        return parent

    def search(self, letter: str, feed: Feed, *, rate: float = 20.0) -> Searcher:
        """Somebody who searches, under a name that occurs nowhere else."""
        self._searchers.append(self.network.start_searcher(self._name(letter), feed, rate=rate))
        return self._searchers[-1]

    def search_on(self, letters: str, *, rate: float = 20.0) -> None:
        """For each letter somebody who searches until the end."""
        for letter in letters:
            self.search(letter, queries(letter, 6000), rate=rate)

    def heard(self) -> list[Forwarded]:
        """What was forwarded to the collector so far."""
        return forwarded.searches(self.network.record)

    def hears(self, more: int = 150, seconds: float = 90.0) -> None:
        """Waits until so many searches more have been forwarded."""
        enough = len(self.heard()) + more
        until(lambda: len(self.heard()) >= enough, f"{more} searches more are forwarded", seconds)

    def hears_everybody(self) -> None:
        """Waits until everybody searches."""
        names = {one.name for one in self._searchers}
        until(lambda: names <= {one.search.username for one in self.heard()}, "everybody searches", 90)

    def has_left(self) -> None:
        """Waits until a connection of the collector has been closed."""
        until(lambda: any(one.get("event") == "close" for one in forwarded.lines(self.network.record)), "it leaves", 60)

    def kill_collector(self) -> None:
        """SIGKILL."""
        self._deaths.append(self.collector.kill())

    def stop_collector(self) -> None:
        """SIGTERM."""
        assert self.collector.stop() == 0, self.collector.said()[-2000:]

    def ends(self) -> Outcome:
        """All fall silent, the collector is stopped, and everything is read and shown."""
        for searcher in self._searchers:
            searcher.stop()
        time.sleep(0.5)  # for what is under way
        self.stop_collector()
        return self.outcome()

    def outcome(self) -> Outcome:
        """Ends the network, and reads and shows everything."""
        self.network.close()
        stored = kept.read(data_dir(self.folder))
        outcome = Outcome(stored, self._lives(stored), self._never_forwarded())
        print(f"\n{outcome}")  # noqa: T201 - the figures are what a proof is run for
        return outcome

    def close(self) -> None:
        """Leaves nothing behind, however it went."""
        if self._collector is not None and not self._collector.ended:
            self._collector.kill()

    def _lives(self, stored: Kept) -> list[Life]:
        opened = {one["conn"]: one["t"] for one in forwarded.lines(self.network.record) if one.get("event") == "open"}
        heard, lives = self.heard(), []
        for born, died in itertools.pairwise([0.0, *self._deaths, math.inf]):
            to_it = [one for one in heard if born <= opened[one.connection] < died]
            its = [one for one, at in zip(stored.searches, stored.times, strict=True) if born <= at < died]
            lives.append(Life(died, to_it, forwarded.to_be_kept(to_it), its))
        return lives

    def _never_forwarded(self) -> list[float]:
        arrived = {
            (one["user"], one["ticket"], one["query_hex"]) for one in forwarded.search_lines(self.network.record)
        }
        return [
            one["t"]
            for searcher in self._searchers
            for one in searcher.sent()
            if (searcher.name, one["ticket"], one["query_hex"]) not in arrived
            and one["t"] < searcher.stopped_at() - QUITTING_SECONDS
        ]

    def _name(self, letter: str) -> str:
        return f"seeker-{self._mark}-{letter}"


def queries(letter: str, number: int) -> Feed:
    """Queries that occur once, in several scripts, and name nobody."""
    choice = random.Random(letter)
    return [{"q": f"{choice.choice(WORDS)} {letter}{n}"} for n in range(number)]
