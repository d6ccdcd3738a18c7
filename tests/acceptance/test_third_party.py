"""Everything that another's server and another's clients forwarded is in the table, each once, whatever happens."""

import contextlib
import dataclasses
import itertools
import json
import random
import secrets
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import forwarded, kept
from tests.collector_process import PASSWORD, Collector, data_dir
from tests.conftest import open_folder
from tests.forwarded import Forwarded
from tests.kept import Kept
from tests.third_party import KIT, VARIABLE, Feed, Network, Searcher, until

pytestmark = [
    pytest.mark.prove,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not KIT.is_dir(), reason=f"{VARIABLE} names no folder with the third-party programs"),
]

WORDS = (
    "miles davis", "кино группа крови", "中島みゆき 糸", "방탄소년단", "أم كلثوم", "שלמה ארצי", "mötley crüe", "beyoncé",
    "ελληνικά τραγούδια", "ปาล์มมี่", "🎵 lofi 🎧", "flac 24bit", "discography 1971", "live at leeds",
)  # fmt: skip
# What a collector that is killed had not flushed: the searches of a second, and of the flush that was under way.
LAST_SECONDS = 1.25
# What the tap and the collector may disagree about when a search came, on a busy machine.
CLOCK_SECONDS = 0.25
# A client may note that it sends a search so long before the server forwards it.
UNDER_WAY_SECONDS = 1.0


class Scene:
    """A network with a collector in it; in the end, what was forwarded beside what was kept."""

    def __init__(self, network: Network, folder: Path) -> None:
        self.network = network
        self.folder = folder
        self.mark = secrets.token_hex(4)
        self.account = f"listener-{self.mark}"
        self.collector: Collector | None = None
        self.searchers: list[Searcher] = []
        self.deaths: list[float] = []

    def collect(self, *options: str) -> Collector:
        self.collector = Collector(self.account, self.network.address, self.folder, *options)
        return self.collector

    def name(self, letter: str) -> str:
        return f"seeker-{self.mark}-{letter}"

    def search(self, letter: str, feed: Feed, *, rate: float = 20.0) -> Searcher:
        """A searcher of a name that occurs nowhere else."""
        self.searchers.append(self.network.start_searcher(self.name(letter), feed, rate=rate))
        return self.searchers[-1]

    def search_on(self, letters: str, *, rate: float = 20.0) -> None:
        """Searchers that go on until the end, in every script."""
        for letter in letters:
            self.search(letter, queries(letter, 6000), rate=rate)

    def heard(self) -> list[Forwarded]:
        """What was forwarded to the collector so far."""
        return forwarded.searches(self.network.record)

    def hears(self, more: int = 100, seconds: float = 90.0) -> None:
        """Waits until so many searches more have been forwarded."""
        before = len(self.heard())
        until(lambda: len(self.heard()) >= before + more, f"{more} searches more are forwarded", seconds)

    def kill_collector(self) -> None:
        assert self.collector is not None
        self.deaths.append(self.collector.kill())

    def stop_collector(self) -> None:
        assert self.collector is not None
        assert self.collector.stop() == 0, self.collector.said()[-2000:]

    def ends(self) -> "Outcome":
        """The searchers fall silent, the collector is stopped, and everything is read."""
        for searcher in self.searchers:
            searcher.stop()
        time.sleep(0.5)
        self.stop_collector()
        self.network.close()
        return self.outcome()

    def outcome(self) -> "Outcome":
        """Reads what was forwarded and what was kept, and shows both numbers."""
        opened = {one["conn"]: one["t"] for one in forwarded.lines(self.network.record) if one.get("event") == "open"}
        stored = kept.read(data_dir(self.folder))
        lives = []
        heard = self.heard()
        for born, died in itertools.pairwise([0.0, *self.deaths, float("inf")]):
            to_it = [one for one in heard if born <= opened[one.connection] < died]
            its = [s for s, at in zip(stored.searches, stored.times, strict=True) if born <= at < died]
            lives.append(Life(died, to_it, forwarded.to_be_kept(to_it), its))
        sent = [(s.name, one["ticket"], one["query_hex"], one["t"]) for s in self.searchers for one in s.sent()]
        outcome = Outcome(stored, lives, sent)
        outcome.show()
        return outcome


@dataclasses.dataclass(frozen=True)
class Life:
    """One process of the collector."""

    died: float
    heard: list[Forwarded]
    expected: list[Forwarded]
    stored: list[forwarded.Search]

    @property
    def lost(self) -> list[Forwarded]:
        return self.expected[len(self.stored) :]


@dataclasses.dataclass(frozen=True)
class Outcome:
    kept: Kept
    lives: list[Life]
    sent: list[tuple[str, int, str, float]]

    def show(self) -> None:
        for number, life in enumerate(self.lives, 1):
            before = [one for one in life.lost if one.at <= life.died]
            print(
                f"process {number}: forwarded {len(life.heard)}, repeats {len(life.heard) - len(life.expected)}, "
                f"stored {len(life.stored)}, missing {len(life.lost)}"
                + (f" ({len(before)} before its death, the first {life.died - before[0].at:.3f} s)" if before else "")
            )
        for one in self.kept.stretches:
            print(
                f"  {one['started_at']:%T.%f} - {one['ended_at']:%T.%f} {one['role']} {one['branch_level']} kept "
                f"{one['kept']} duplicates {one['duplicates']} refused {one['refused']} {one['reasons']}: {one['end_reason']}"
            )
        for one in self.kept.gaps:
            print(" gap", one)

    def differences(self) -> tuple[Counter[forwarded.Search], Counter[forwarded.Search]]:
        expected = Counter(one.search for life in self.lives for one in life.expected)
        return expected - Counter(self.kept.searches), Counter(self.kept.searches) - expected


def queries(letter: str, number: int) -> Feed:
    """Queries that occur once, and name nobody."""
    choice = random.Random(letter)
    return ({"q": f"{choice.choice(WORDS)} {letter}{n}"} for n in range(number))


@pytest.fixture
def network() -> Iterator[Network]:
    with open_folder() as folder, contextlib.closing(Network(folder)) as made:
        yield made


@pytest.fixture
def scene(network: Network) -> Iterator[Scene]:
    with open_folder() as folder:
        made = Scene(network, folder)
        try:
            yield made
        finally:
            if made.collector is not None and not made.collector.ended:
                made.collector.kill()


def check(outcome: Outcome) -> None:
    missing, extra = outcome.differences()
    print("missing", missing, "extra", extra)
    assert not missing
    assert not extra


def test_crash(scene: Scene) -> None:
    server = scene.network.start_soulfind()
    scene.network.start_tap()
    scene.collect().says("logged in")
    scene.search_on("abc")
    scene.hears(200)
    server.kill()
    time.sleep(0.5)
    scene.network.start_soulfind()
    scene.hears()
    check(scene.ends())


def test_kick(scene: Scene) -> None:
    scene.network.start_soulfind()
    scene.network.start_tap()
    scene.collect().says("logged in")
    scene.search_on("abc")
    scene.hears(200)
    scene.network.log_in_elsewhere("kick", scene.account, PASSWORD)
    scene.collector.says("listening: ", times=2)
    scene.hears()
    check(scene.ends())


def test_starve(scene: Scene) -> None:
    scene.network.start_soulfind()
    scene.network.start_tap()
    scene.collect("--silence-seconds", "4").says("logged in")
    scene.search_on("abc")
    scene.hears(200)
    scene.network.log_in_elsewhere("starve", scene.account)
    scene.collector.says("listening: ", times=2)
    scene.hears()
    check(scene.ends())


def test_kill(scene: Scene) -> None:
    scene.network.start_soulfind()
    scene.network.start_tap()
    scene.collect().says("logged in")
    scene.search_on("abc")
    for n in range(3):
        scene.hears(200)
        time.sleep(random.random())
        scene.kill_collector()
        scene.collect()
    scene.hears(200)
    o = scene.ends()


@pytest.mark.parametrize("how", ["rst", "fin"])
def test_cut(scene: Scene, how: str) -> None:
    scene.network.start_soulfind()
    scene.network.start_tap()
    scene.collect().says("logged in")
    scene.search_on("ab", rate=300)
    scene.hears(1000)
    scene.network.fault(how)
    scene.hears(1000)
    check(scene.ends())
