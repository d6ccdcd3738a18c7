"""Another's server and another's clients: every search that was forwarded is in the table once, whatever happens.

The truth is what a tap between them and the collector has seen pass. Each test prints its figures (`pytest -rP`).
"""

import contextlib
import datetime as dt
import itertools
import json
import random
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests import forwarded, kept
from tests.collector_process import PASSWORD
from tests.conftest import open_folder
from tests.ports import free_port
from tests.program import until
from tests.scene import Outcome, Scene, queries
from tests.third_party import KIT, VARIABLE, Network

pytestmark = [
    pytest.mark.prove,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not KIT.is_dir(), reason=f"{VARIABLE} names no folder with the third-party programs"),
]

# What a collector that is killed may lose, by the clock of the tap.
LAST_SECONDS = 1.0
# By so much the collector and the tap may disagree about when a search came, on a busy machine.
CLOCKS_SECONDS = 0.2
# From a client's note that it sends a search to the server's forwarding it.
UNDER_WAY_SECONDS = 1.0
MILLISECOND = dt.timedelta(milliseconds=1)


@pytest.fixture
def network() -> Iterator[Network]:
    with open_folder() as folder, contextlib.closing(Network(folder)) as made:
        yield made


@pytest.fixture
def scene(network: Network) -> Iterator[Scene]:
    with open_folder() as folder, contextlib.closing(Scene(network, folder)) as made:
        yield made


@pytest.fixture
def addressed(scene: Scene) -> Scene:
    """A collector to which soulfind sends every search."""
    scene.network.start_soulfind()
    scene.network.start_tap()
    scene.collect()
    return scene


def assert_all_is_there_once(outcome: Outcome) -> None:
    """Whatever was forwarded, and nothing else."""
    assert not outcome.missing()
    assert not outcome.extra()
    assert sum(len(life.heard) - len(life.due) for life in outcome.lives) == outcome.kept.counted("duplicates")


def assert_the_ledger_is_true(outcome: Outcome) -> None:
    """It counts what is there, and covers the times in which it was heard and no others."""
    found = outcome.kept
    assert found.counted("kept") == len(found.searches) == found.kept_by_minutes
    assert found.counted("refused") == found.counted("dropped") == 0
    assert not found.gaps
    assert all(one["end_reason"] for one in found.stretches)
    # A millisecond may be in two of them: a stretch ends after the millisecond of its last search.
    pairs = itertools.pairwise(found.stretches)
    assert all(one["ended_at"] - MILLISECOND <= following["started_at"] for one, following in pairs)
    assert all(found.covers(moment) for moment in found.times)
    assert {one["ended"] for one in found.segments} == {"drained"}
    assert all(one["committed_position"] == one["spooled_position"] for one in found.segments)


def assert_nobody_listened_when_nothing_came(outcome: Outcome) -> None:
    """What was sent and never came to us was sent in a time that the ledger does not cover."""
    assert outcome.never_forwarded
    late = UNDER_WAY_SECONDS
    assert not [at for at in outcome.never_forwarded if outcome.kept.covers(at - late, at + late)]


def assert_only_the_last_second_is_lost(outcome: Outcome) -> None:
    """Each killed process has stored what it heard up to its last second, without a hole, and the ledger ends there."""
    assert not outcome.extra()
    *killed, last = outcome.lives
    assert [one.search for one in last.due] == last.stored
    for life in killed:
        assert [one.search for one in life.due[: len(life.stored)]] == life.stored
        assert life.stored
        ends = [one["ended_at"].timestamp() for one in outcome.kept.stretches]
        ended_at = max(at for at in ends if at < life.died)
        assert all(one.at > life.died - LAST_SECONDS for one in life.lost)
        assert all(one.at > ended_at - CLOCKS_SECONDS for one in life.lost)


def assert_names_nobody(scene: Scene) -> None:
    """No raw name in the spool, the database, its log of changes, or the collector's log."""
    assert not kept.files_naming(scene.folder, *scene.names)
    # Looking is worth something: what was searched for is found, and aioslsk has told its steps to the log.
    found = " ".join(kept.files_naming(scene.folder, "discography 1971"))
    assert "data/postgres" in found
    assert "data/spool" in found
    assert "DEBUG   aioslsk.network" in scene.collector.said()


def hostile(scene: Scene, somebody: str) -> list[dict[str, Any]]:
    """Everything hostile, with a search for somebody's name, not in the form in which the name would be found here."""
    feed = scene.network.hostile_feed()
    for line in feed:
        if "to" in line:
            line["to"] = scene.account
        if line.get("case") == "name_like":
            line["q"] = f"songs by {somebody.upper().replace('-', ' ')} live"
    return feed


# What the server sends to everybody


def test_hostile_searches(addressed: Scene) -> None:
    addressed.search_on("a")
    addressed.hears()
    addressed.search("h", hostile(addressed, addressed.names[1]), rate=40).has_sent_all()
    outcome = addressed.ends()
    assert_all_is_there_once(outcome)
    assert_the_ledger_is_true(outcome)
    assert_names_nobody(addressed)
    flags = {one.flags for one in outcome.kept.searches}
    assert {0, forwarded.ALTERED, forwarded.TRUNCATED, forwarded.NOT_UTF8, forwarded.NAMES_SOMEONE} <= flags


def test_a_wish_is_kept_again_after_a_minute(addressed: Scene) -> None:
    wishes = [{"mode": "wish", "q": "願い 🎁 one"}, {"mode": "wish", "q": "wish \0 two"}]
    repeats = [{"mode": "tick"}] * 2
    searcher = addressed.search("w", [*wishes, *repeats], rate=5)
    searcher.has_sent_all()
    time.sleep(61)
    searcher.feed(*repeats)
    searcher.has_sent_all()
    outcome = addressed.ends()
    (life,) = outcome.lives
    assert (len(life.heard), len(life.stored)) == (6, 4)
    assert len({one.ticket for one in life.stored}) == 2
    assert_all_is_there_once(outcome)
    assert_the_ledger_is_true(outcome)


def test_the_server_crashes(network: Network, scene: Scene) -> None:
    server = network.start_soulfind()
    network.start_tap()
    scene.collect()
    scene.search_on("abc")
    scene.hears_everybody()
    scene.hears()
    server.kill()
    network.start_soulfind()
    scene.hears()
    outcome = scene.ends()
    assert_all_is_there_once(outcome)
    assert_the_ledger_is_true(outcome)
    assert [one["end_reason"] for one in outcome.kept.stretches] == ["server closed the connection", "stopped"]
    assert_names_nobody(scene)


@pytest.mark.parametrize(("how", "reason"), [("fin", "server closed the connection"), ("rst", "connection lost")])
def test_the_connection_is_cut_under_load(addressed: Scene, how: str, reason: str) -> None:
    addressed.search_on("ab", rate=200)
    addressed.hears(1000)
    addressed.network.fault(how)
    addressed.hears(1000)
    outcome = addressed.ends()
    assert_all_is_there_once(outcome)
    assert_the_ledger_is_true(outcome)
    assert [one["end_reason"] for one in outcome.kept.stretches] == [reason, "stopped"]


def test_a_kick(addressed: Scene) -> None:
    addressed.search_on("abc")
    addressed.hears()
    addressed.network.log_in_elsewhere("kick", addressed.account, PASSWORD)
    addressed.collector.says("listening:", times=2)
    addressed.hears()
    outcome = addressed.ends()
    assert_all_is_there_once(outcome)
    assert_the_ledger_is_true(outcome)
    assert_nobody_listened_when_nothing_came(outcome)
    assert [one["end_reason"] for one in outcome.kept.stretches] == ["kicked", "stopped"]


@pytest.mark.parametrize("how", ["login elsewhere", "half-open"])
def test_starvation(network: Network, scene: Scene, how: str) -> None:
    network.start_soulfind()
    network.start_tap()
    scene.search_on("abc")
    scene.collect("--silence-seconds", "4")
    scene.hears()
    if how == "half-open":
        network.fault("stall")
    else:
        network.log_in_elsewhere("starve", scene.account)
    scene.has_left()
    network.fault("go")
    scene.collector.says("listening:", times=2)
    scene.hears()
    outcome = scene.ends()
    assert_all_is_there_once(outcome)
    assert_the_ledger_is_true(outcome)
    assert_nobody_listened_when_nothing_came(outcome)
    assert [one["end_reason"] for one in outcome.kept.stretches] == ["starved", "stopped"]
    # The stretch ends with the last search, not when the silence was noticed.
    first, second = outcome.kept.stretches
    last = max(at for at in outcome.kept.times if at < second["started_at"].timestamp())
    assert first["ended_at"].timestamp() == pytest.approx(last + 0.001, abs=0.002)


def test_kill_9(addressed: Scene) -> None:
    addressed.search_on("abc")
    for _ in range(4):
        addressed.hears()
        time.sleep(random.random())
        addressed.kill_collector()
        addressed.collect()
    addressed.hears()
    outcome = addressed.ends()
    assert_only_the_last_second_is_lost(outcome)
    assert_the_ledger_is_true(outcome)
    assert_nobody_listened_when_nothing_came(outcome)
    assert [one["end_reason"] for one in outcome.kept.stretches] == ["process died"] * 4 + ["stopped"]
    assert_names_nobody(addressed)


def test_a_stop_under_load(addressed: Scene) -> None:
    addressed.search_on("ab", rate=200)
    addressed.hears(1000)
    addressed.stop_collector()
    outcome = addressed.outcome()
    (life,) = outcome.lives
    assert [one.search for one in life.due[: len(life.stored)]] == life.stored
    ended_at = outcome.kept.stretches[-1]["ended_at"].timestamp()
    assert all(one.at > ended_at - CLOCKS_SECONDS for one in life.lost)
    assert_the_ledger_is_true(outcome)


# What comes down the tree


def place(scene: Scene, strategy: str, parents: str, *options: str) -> None:
    """A collector in a distributed network, below the last of the parents, each of which is below the one before."""
    scene.network.start_mock(strategy)
    for letter in parents:
        scene.parent(letter)
    scene.network.start_tap()
    scene.collect(*options)


def places(outcome: Outcome) -> list[tuple[str, int, str]]:
    return [(one["role"], one["branch_level"], one["end_reason"]) for one in outcome.kept.stretches]


def sources(outcome: Outcome) -> set[int]:
    return {one.source for one in outcome.kept.searches}


def test_hostile_searches_from_a_parent_and_as_the_branch_root_after_it(scene: Scene) -> None:
    place(scene, "connect_time_oldest_root", "r")
    scene.search_on("é")
    scene.hears()
    feed = [*hostile(scene, scene.names[1]), {"mode": "direct", "q": "x" * 65_536}]
    hostile_searcher = scene.search("h", feed, rate=40)
    hostile_searcher.has_sent_all()
    scene.hears()
    scene.parents[0].stop()
    scene.collector.says("listening: branch root at level 0", seconds=60)
    hostile_searcher.feed(*feed)
    hostile_searcher.has_sent_all()
    scene.hears()
    outcome = scene.ends()
    assert_all_is_there_once(outcome)
    assert_the_ledger_is_true(outcome)
    assert places(outcome) == [("child", 1, "parent lost"), ("branch root", 0, "stopped")]
    assert sources(outcome) == {1, 3, 4}
    flags = {one.flags for one in outcome.kept.searches}
    assert {0, forwarded.ALTERED, forwarded.TRUNCATED, forwarded.NAMES_SOMEONE} <= flags
    assert_names_nobody(scene)


def test_a_child_of_ours_passes_on_what_it_hears_from_us(scene: Scene) -> None:
    """The server, a root, we, another client as our child, and below it one that can have heard it by us only."""
    place(scene, "connect_time_chain", "r", "--listen-port", str(free_port()))
    scene.parent("s")
    below = scene.network.start_listener("the-last-of-all")

    def arrived(name: str) -> list[tuple[int, str]]:
        heard = (json.loads(line) for line in below.read_text().splitlines(keepends=True) if line.endswith("\n"))
        return [(one["ticket"], bytes.fromhex(one["query_hex"]).decode()) for one in heard if one.get("user") == name]

    first = scene.search("a", queries("a", 6000), rate=10)
    until(lambda: arrived(first.name), "what we hear is passed on")
    second = scene.search("b", queries("b", 200), rate=40)
    second.has_sent_all()
    until(lambda: len(arrived(second.name)) == 200, "all of it is passed on")
    outcome = scene.ends()
    assert_all_is_there_once(outcome)
    ours = [(one.ticket, one.query) for one in outcome.kept.searches if one.username == second.name]
    assert arrived(second.name) == ours
    assert '"level": 2' in below.read_text()  # what our child says of itself


def test_a_parent_leaves_and_another_is_found(scene: Scene) -> None:
    place(scene, "connect_time_chain", "rs")
    scene.search_on("ab")
    scene.hears()
    scene.parents[1].stop()
    scene.collector.says("listening: child at level 1", seconds=60)
    scene.hears()
    outcome = scene.ends()
    assert_all_is_there_once(outcome)
    assert_the_ledger_is_true(outcome)
    assert_nobody_listened_when_nothing_came(outcome)
    assert places(outcome) == [("child", 2, "parent lost"), ("child", 1, "stopped")]
    assert sources(outcome) == {1}
    assert_names_nobody(scene)


@pytest.mark.parametrize(
    ("strategy", "parents", "first_place"),
    [
        ("connect_time_oldest_root", "r", ("child", 1)),
        ("connect_time_chain", "rs", ("child", 2)),
        ("everyone_root", "", ("branch root", 0)),
    ],
)
def test_kill_9_in_the_tree(scene: Scene, strategy: str, parents: str, first_place: tuple[str, int]) -> None:
    place(scene, strategy, parents)
    scene.search_on("abc")
    scene.hears()
    time.sleep(random.random())
    scene.kill_collector()
    scene.collect()
    scene.hears()
    outcome = scene.ends()
    assert_only_the_last_second_is_lost(outcome)
    assert_the_ledger_is_true(outcome)
    assert_nobody_listened_when_nothing_came(outcome)
    # Where it comes back is the server's choice: in a chain, below those who came meanwhile.
    assert places(outcome)[0] == (*first_place, "process died")
    assert_names_nobody(scene)
