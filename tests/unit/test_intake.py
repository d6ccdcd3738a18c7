import copy
import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors.counts import INTAKE_FULL, NO_KEY, UNREADABLE, Counts
from collectors.intake import Intake
from collectors.keys import AES_SIV, KeyRing
from collectors.pseudonym import Epoch, Pseudonymiser
from collectors.search import Flag, Source

NOW = 1_700_000_000.5


@dataclasses.dataclass
class House:
    """An intake with a clock that stands still until it is moved."""

    pseudonym: Callable[[str, int], str] = lambda name, _time: f"p.{name[::-1]}"
    limits: dict[str, int] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        self.now = NOW
        self.counts = Counts()
        self.intake = Intake(
            lambda name, timestamp_ms: self.pseudonym(name, timestamp_ms),  # noqa: PLW0108 - it is exchanged later
            self.counts,
            own_username="me",
            clock=lambda: self.now,
            **self.limits,
        )
        self.hear = self.intake.hear


@pytest.fixture
def house() -> House:
    return House()


def test_a_search_becomes_a_row(house: House) -> None:
    assert house.hear(Source.EMBEDDED, "anna", 7, "miles davis", Flag.NOT_UTF8)
    assert house.hear(Source.DISTRIBUTED, "bert", 2**32 - 1, "kind\0of blue")
    assert house.intake.pending == 2
    assert house.intake.take() == [
        (1_700_000_000_500, 7, 2, Flag.NOT_UTF8, "p.anna", "miles davis"),
        (1_700_000_000_500, 2**32 - 1, 1, Flag.ALTERED, "p.treb", "kind\ufffdof blue"),
    ]
    assert house.intake.pending == 0
    assert house.intake.take() == []
    assert house.counts == Counts(kept=2)


def test_a_search_is_of_the_moment_that_is_told(house: House) -> None:
    assert house.hear(Source.DISTRIBUTED, "anna", 7, "one", 0, NOW - 2.25)
    assert [row[0] for row in house.intake.take()] == [1_699_999_998_250]
    assert house.intake.last_heard == NOW - 2.25


def test_the_same_search_again_is_counted_and_not_kept(house: House) -> None:
    assert house.hear(Source.DISTRIBUTED, "anna", 7, "miles davis")
    house.now += 59
    assert not house.hear(Source.SERVER, "anna", 7, "miles davis")
    assert house.hear(Source.DISTRIBUTED, "anna", 8, "miles davis")
    assert house.intake.last_heard == NOW + 59
    house.now += 1
    assert house.hear(Source.DISTRIBUTED, "anna", 7, "miles davis")
    assert house.counts == Counts(kept=3, duplicates=1)


def test_our_own_searches_are_passed_over(house: House) -> None:
    assert not house.hear(Source.SERVER, "me", 1, "anything")
    assert house.counts == Counts()
    assert house.intake.last_heard == 0


def test_a_query_that_names_somebody_who_was_heard_is_flagged(house: House) -> None:
    house.hear(Source.DISTRIBUTED, "Loop_Freak", 1, "miles davis")
    house.hear(Source.DISTRIBUTED, "bertram", 2, "loop freak live set")
    house.hear(Source.DISTRIBUTED, "bertram", 3, "myself: BERTRAM")
    house.hear(Source.DISTRIBUTED, "bertram", 4, "\0loop\0freak\0")
    assert [row[3] for row in house.intake.take()] == [
        0,
        Flag.NAMES_SOMEONE,
        Flag.NAMES_SOMEONE,
        Flag.NAMES_SOMEONE | Flag.ALTERED,
    ]


def test_the_flush_is_woken_once_for_each_buffer(house: House) -> None:
    woken: list[int] = []
    house.intake.on_full = lambda: woken.append(house.intake.pending)
    for ticket in range(1200):
        house.hear(Source.DISTRIBUTED, "anna", ticket, "q")
    assert woken == [500]
    house.intake.take()
    for ticket in range(2000, 2500):
        house.hear(Source.DISTRIBUTED, "anna", ticket, "q")
    assert woken == [500, 500]


def test_a_waker_that_fails_costs_no_search(house: House) -> None:
    def broken() -> None:
        raise RuntimeError

    house.intake.on_full = broken
    assert all(house.hear(Source.DISTRIBUTED, "anna", ticket, "q") for ticket in range(600))
    assert house.counts == Counts(kept=600)


@pytest.mark.parametrize("limits", [{"buffer_limit": 3}, {"buffer_max_bytes": 1300}])
def test_beyond_its_limit_a_search_is_dropped_and_counted_and_may_come_again(limits: dict[str, int]) -> None:
    house = House(limits=limits)
    heard = [house.hear(Source.DISTRIBUTED, "anna", ticket, "some query") for ticket in range(5)]
    assert heard == [True, True, True, False, False]
    assert not house.hear(Source.DISTRIBUTED, "anna", 0, "some query")
    assert house.counts == Counts(kept=3, duplicates=1, dropped={INTAKE_FULL: 2})
    assert len(house.intake.take()) == 3
    assert house.hear(Source.DISTRIBUTED, "anna", 4, "some query"), "it was not kept, so it is no duplicate"


def test_a_search_whose_key_is_not_here_is_dropped_and_counted(tmp_path: pathlib.Path) -> None:
    ring = KeyRing(tmp_path / "keys")
    key = ring.new()
    epochs = [Epoch(key.key_id, key.fingerprint, AES_SIV), Epoch("aaaaaaaa", "00", AES_SIV, int(NOW * 1000) + 10_000)]
    house = House(Pseudonymiser(ring, epochs))
    assert house.hear(Source.DISTRIBUTED, "anna", 1, "q")
    house.now += 10
    assert not house.hear(Source.DISTRIBUTED, "anna", 2, "q")
    assert house.counts == Counts(kept=1, dropped={NO_KEY: 1})


def test_no_raw_name_leaves_the_intake(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    ring = KeyRing(tmp_path / "keys")
    key = ring.new()
    house = House(Pseudonymiser(ring, [Epoch(key.key_id, key.fingerprint, AES_SIV)]))
    caplog.set_level("DEBUG")
    for ticket, query in enumerate(["miles davis", "\ud800", "x" * 100_000]):
        house.hear(Source.DISTRIBUTED, "loopfreak", ticket, query)
    house.hear(Source.DISTRIBUTED, "loopfreak", None, object())  # type: ignore[arg-type]
    said = f"{house.intake!r} {house.counts!r} {house.intake.take()!r} {caplog.text}"
    assert "loopfreak" not in said
    with pytest.raises(TypeError):
        copy.deepcopy(house.intake)


any_text = st.text(st.characters(exclude_categories=()), max_size=50)
anything = st.one_of(any_text, st.integers(), st.none(), st.binary(), st.floats(), st.lists(st.integers(), max_size=2))


@given(st.lists(st.tuples(any_text, st.integers(0, 2**32 - 1), any_text), max_size=20, unique=True))
def test_whatever_can_arrive_is_kept_in_a_form_that_can_be_stored(
    tmp_path_factory: pytest.TempPathFactory, searches: list[tuple[str, int, str]]
) -> None:
    ring = KeyRing(tmp_path_factory.getbasetemp() / "intake keys")
    key = ring.get(ring.key_ids[0]) if ring.key_ids else ring.new()
    house = House(Pseudonymiser(ring, [Epoch(key.key_id, key.fingerprint, AES_SIV)]))
    assert all(house.hear(Source.DISTRIBUTED, *search) for search in searches if search[0] != "me")
    rows = house.intake.take()
    assert [[row[1], house.pseudonym.reveal(row[4])] for row in rows] == [[t, u] for u, t, _ in searches]  # type: ignore[attr-defined]
    assert json.loads(json.dumps(rows, ensure_ascii=False).encode("utf-8")) == [list(row) for row in rows]
    assert not any("\0" in row[5] for row in rows)


@given(st.lists(st.tuples(anything, anything, anything, anything), max_size=20))
def test_nothing_that_is_heard_makes_it_raise_or_holds_up_the_next(heard: list[tuple[Any, Any, Any, Any]]) -> None:
    house = House()
    for search in heard:
        house.hear(Source.DISTRIBUTED, *search)
    house.now += 60
    assert house.hear(Source.DISTRIBUTED, "anna", 1, "the next one")
    assert house.intake.take()[-1][5] == "the next one"
    assert house.counts.kept + house.counts.duplicates + sum(house.counts.refused.values()) == len(heard) + 1
    assert set(house.counts.refused) <= {UNREADABLE}


def test_a_clock_or_a_pseudonym_that_fails_is_counted(house: House) -> None:
    house.now = float("nan")
    assert not house.hear(Source.DISTRIBUTED, "anna", 1, "q")
    house.now = NOW

    def broken(name: str, _time: int) -> str:
        raise ValueError(name)

    house.pseudonym = broken
    assert not house.hear(Source.DISTRIBUTED, "anna", 1, "q")
    assert house.counts == Counts(refused={UNREADABLE: 2})
