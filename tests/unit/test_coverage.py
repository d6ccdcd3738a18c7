import datetime as dt
import itertools
import json
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from collectors import coverage
from collectors.clock import ClockReading
from collectors.counts import DISK_ERROR, INTAKE_FULL, NOT_FROM_PARENT, SPOOL_FULL, Counts
from collectors.search import Row

START = 1_753_000_000.0


def pseudonym(username: str, _timestamp_ms: int) -> str:
    return f"pseudonym of {username}"


def unix(text: str) -> float:
    return dt.datetime.fromisoformat(text).timestamp()


@dataclass
class House:
    """A ledger with an intake before it, and behind it a spool and a database that may fail."""

    counts: Counts = field(default_factory=Counts)
    now: float = START
    buffer: list[Row] = field(default_factory=list)
    stored: list[Row] = field(default_factory=list)
    heard: list[tuple[float, bool]] = field(default_factory=list)
    stretches: dict[str, dict[str, Any]] = field(default_factory=dict)
    gaps: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ledger = coverage.Ledger(self.counts, pseudonym, now=self.now)

    def hear(self, *, addressed: bool = False) -> None:
        self.ledger.heard(self.now, addressed=addressed)
        self.heard.append((self.now, addressed))
        self.counts.kept += 1
        self.buffer.append((int(self.now * 1000), 1, 1, 0, "someone", "something"))

    def flush(self, outcome: str = "taken") -> None:
        snapshot = self.ledger.snapshot(self.now)
        json.dumps(snapshot, allow_nan=False)
        rows, self.buffer = self.buffer, []
        if outcome == "taken":
            self.stored += rows
            self.stretches.update((form["stretch_id"], form) for form in snapshot["stretches"])
            self.gaps.update((form["gap_id"], form) for form in snapshot["gaps"])
            self.ledger.spooled(snapshot)
        elif outcome == "tried again later":
            self.buffer = rows
        else:
            self.ledger.dropped(snapshot, rows, outcome)

    def kept(self) -> list[int]:
        return [form["kept"] for form in self.stretches.values()]

    def lost(self) -> dict[str, int]:
        reasons = {form["reason"] for form in self.gaps.values()}
        return {
            reason: sum(form["searches"] for form in self.gaps.values() if form["reason"] == reason)
            for reason in reasons
        }


def only(house: House) -> dict[str, Any]:
    (form,) = house.stretches.values()
    return form


def test_a_place_that_no_search_has_proved_is_no_stretch() -> None:
    house = House()
    house.ledger.place("child", 2, "root", house.now)
    house.flush()
    house.ledger.lost("parent lost")
    house.flush()
    assert not house.stretches


def test_a_stretch_begins_with_the_first_search_and_is_open_until_the_last() -> None:
    house = House()
    house.ledger.place("child", 2, "root", house.now)
    for house.now in (START + 3, START + 4):
        house.hear()
    house.now += 60
    house.flush()
    form = only(house)
    assert (unix(form["started_at"]), unix(form["ended_at"])) == (START + 3, START + 4.001)
    assert form["end_reason"] is None
    assert (form["role"], form["branch_level"], form["branch_root"]) == ("child", 2, "pseudonym of root")
    assert form["kept"] == 2


def test_a_stretch_ends_at_the_last_search_whatever_ended_it() -> None:
    for reason in ("parent lost", coverage.STARVED, coverage.STOPPED):
        house = House()
        house.ledger.place("child", 1, "root", START)
        house.hear()
        house.now += 30
        house.ledger.lost(reason)
        house.flush()
        assert unix(only(house)["ended_at"]) == START + 0.001
        assert only(house)["end_reason"] == reason


def test_a_pause_is_not_listened_through() -> None:
    house = House()
    house.ledger.place("child", 1, "root", house.now)
    house.hear()
    house.now += 8 * 3600  # the lid is closed
    house.hear()
    house.flush()
    first, second = house.stretches.values()
    assert (unix(first["ended_at"]), first["end_reason"]) == (START + 0.001, coverage.PAUSED)
    assert (unix(second["started_at"]), second["end_reason"]) == (house.now, None)
    assert (second["role"], second["branch_level"], second["branch_root"]) == ("child", 1, "pseudonym of root")


def test_a_clock_that_is_set_back_leaves_no_search_outside() -> None:
    house = House()
    house.ledger.place("child", 1, "root", house.now)
    for step in (10, -0.5, -3600, 5):
        house.now += step
        house.hear()
    house.flush()
    first, second = house.stretches.values()
    assert (unix(first["ended_at"]), first["end_reason"]) == (START + 10.001, coverage.CLOCK_SET_BACK)
    assert (unix(second["started_at"]), unix(second["ended_at"])) == (START + 9.5 - 3600, START + 14.501 - 3600)


def test_another_place_is_another_stretch_and_the_same_place_is_not() -> None:
    house = House()
    for level in (1, 1, 3):
        house.ledger.place("child", level, "root", house.now)
        house.hear()
        house.now += 1
    house.flush()
    first, second = sorted(house.stretches.values(), key=lambda form: str(form["started_at"]))
    assert (first["branch_level"], first["kept"], first["end_reason"]) == (1, 2, coverage.MOVED)
    assert (second["branch_level"], second["kept"], second["end_reason"]) == (3, 1, None)


def test_a_search_addressed_to_us_proves_no_place_in_the_tree() -> None:
    house = House()
    house.hear(addressed=True)
    house.ledger.place("branch root", 0, "us", house.now)
    house.hear(addressed=True)
    house.flush()
    assert [form["role"] for form in house.stretches.values()] == ["addressed"]
    house.hear()
    house.hear(addressed=True)
    house.flush()
    assert [(form["role"], form["kept"]) for form in house.stretches.values()] == [("addressed", 2), ("branch root", 2)]


def test_what_is_refused_between_stretches_is_counted_to_the_next() -> None:
    house = House()
    house.counts.refuse(NOT_FROM_PARENT)
    house.ledger.place("child", 1, "root", house.now)
    house.hear()
    house.ledger.lost("parent lost")
    house.counts.refuse(NOT_FROM_PARENT, 2)
    house.ledger.place("child", 1, "root", house.now)
    house.hear()
    house.flush()
    assert [(form["refused"], form["reasons"]) for form in house.stretches.values()] == [
        (1, {NOT_FROM_PARENT: 1}),
        (2, {NOT_FROM_PARENT: 2}),
    ]


def test_nothing_new_is_nothing_told_and_a_lost_snapshot_is_told_again() -> None:
    house = House()
    house.hear()
    told = house.ledger.snapshot(house.now)
    assert house.ledger.snapshot(house.now) == told
    house.ledger.spooled(told)
    assert house.ledger.snapshot(house.now + 10) == {"stretches": [], "gaps": []}


def test_a_spool_that_stays_full_is_one_growing_gap() -> None:
    house = House()
    for _ in range(100):
        house.hear()
        house.flush(SPOOL_FULL)
        house.flush()
        house.now += 1
    (gap,) = house.gaps.values()
    assert (gap["searches"], unix(gap["started_at"]), unix(gap["ended_at"])) == (100, START, START + 99)
    house.now += 10 * coverage.GAP_MERGE_SECONDS
    house.hear()
    house.flush(SPOOL_FULL)
    house.flush()
    assert [form["searches"] for form in house.gaps.values()] == [100, 1]


def test_a_level_that_only_a_liar_sends_still_fits_the_database() -> None:
    house = House()
    house.ledger.place("child", 2**32 - 1, "root", house.now)
    house.hear()
    house.flush()
    assert only(house)["branch_level"] == 2**31 - 1


def test_the_clock_reading_goes_with_the_stretch() -> None:
    house = House()
    house.hear()
    house.flush()
    assert only(house)["clock_offset_ms"] is None
    house.ledger.set_clock(ClockReading(offset_ms=-12.5, round_trip_ms=0.25, synchronised=True))
    house.flush()
    assert (only(house)["clock_offset_ms"], only(house)["clock_synchronised"]) == (-12.5, True)


steps = st.one_of(
    st.tuples(st.just("hear"), st.booleans()),
    st.tuples(st.just("place"), st.tuples(st.sampled_from(["child", "branch root"]), st.integers(0, 2))),
    st.tuples(st.just("lost"), st.sampled_from(["parent lost", coverage.STARVED])),
    st.tuples(st.just("wait"), st.floats(-5, 200)),
    st.tuples(st.just("drop"), st.sampled_from([INTAKE_FULL, DISK_ERROR])),
    st.tuples(st.just("refuse"), st.integers(1, 3)),
    st.tuples(st.just("flush"), st.sampled_from(["taken", "taken", "tried again later", SPOOL_FULL, DISK_ERROR])),
)


@given(st.lists(steps, max_size=60))
def test_whatever_happens_the_sums_are_right_and_stretches_do_not_overlap(script: list[tuple[str, Any]]) -> None:
    house = House()
    house.ledger.place("child", 1, "root", house.now)
    backwards = False
    for step, detail in script:
        match step:
            case "hear":
                house.hear(addressed=detail)
            case "place":
                role, level = detail
                house.ledger.place(role, level, "root", house.now)
            case "lost":
                house.ledger.lost(detail)
            case "wait":
                house.now += detail
                backwards = backwards or detail < 0
            case "drop":
                house.counts.drop(detail)
            case "refuse":
                house.counts.refuse(NOT_FROM_PARENT, detail)
            case "flush":
                house.flush(detail)
    house.hear()  # so that nothing is left between two stretches
    house.ledger.lost(coverage.STOPPED)
    house.flush()
    forms = list(house.stretches.values())
    assert sum(house.kept()) == len(house.stored)
    assert min(house.kept()) >= 0
    assert sum(form["dropped"] for form in forms) == sum(house.counts.dropped.values())
    assert house.lost() == house.counts.dropped
    assert sum(form["refused"] for form in forms) == sum(house.counts.refused.values())
    assert all(form["end_reason"] for form in forms)
    assert all(form["started_at"] <= form["ended_at"] for form in forms + list(house.gaps.values()))
    times = sorted((unix(form["started_at"]), unix(form["ended_at"])) for form in forms)
    if not backwards:
        assert all(earlier[1] - 0.0015 <= later[0] for earlier, later in itertools.pairwise(times))
    proved = [moment for moment, addressed in house.heard if not addressed]
    assert all(any(start - 1.001 <= moment <= end for start, end in times) for moment in proved)
