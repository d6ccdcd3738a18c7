import sys

from hypothesis import given
from hypothesis import strategies as st

from collectors.duplicates import MAX_WHOLE_CHARACTERS, Duplicates

LONG = "x" * MAX_WHOLE_CHARACTERS
queries = st.sampled_from(["", "a", LONG, LONG + "a", LONG + "b", "\ud800" * 100])
steps_ms = st.sampled_from([0, 1, 29_999, 30_000, 59_999, 60_000, 60_001, 600_000, -1, -60_000, -3_600_000])
searches = st.lists(st.tuples(st.sampled_from("pq"), st.integers(1, 2), queries, steps_ms), max_size=60)


@given(searches)
def test_a_search_kept_less_than_60_seconds_ago_is_a_repeat_and_nothing_else_is(
    heard: list[tuple[str, int, str, int]],
) -> None:
    duplicates, timestamp_ms, elapsed_ms = Duplicates(), 1_700_000_000_000, 0
    kept_at: dict[tuple[str, int, str], int] = {}
    for pseudonym, ticket, query, step_ms in heard:
        timestamp_ms += step_ms
        elapsed_ms += max(0, step_ms)
        identity = (pseudonym, ticket, query)
        repeat = identity in kept_at and elapsed_ms - kept_at[identity] < 60_000
        if not repeat:
            kept_at[identity] = elapsed_ms
        assert duplicates.is_repeat(*identity, timestamp_ms) == repeat
        assert duplicates.keep(*identity, timestamp_ms) != repeat


def test_a_wish_repeated_with_its_ticket_counts_from_when_it_was_kept() -> None:
    duplicates = Duplicates()
    kept = [second for second in range(0, 301, 50) if duplicates.keep("p", 1, "wish", second * 1000)]
    assert kept == [0, 100, 200, 300]


def test_a_clock_that_is_set_back_neither_hides_nor_repeats_searches_for_long() -> None:
    duplicates = Duplicates()
    assert duplicates.keep("p", 1, "q", 3_600_000)
    assert not duplicates.keep("p", 1, "q", 0)
    assert duplicates.keep("p", 1, "q", 60_000)


@given(st.integers(2, 20), st.lists(st.tuples(st.integers(0, 30), st.integers(0, 20_000)), max_size=200))
def test_memory_is_bounded_and_the_latest_half_is_always_remembered(
    max_remembered: int, heard: list[tuple[int, int]]
) -> None:
    duplicates, timestamp_ms = Duplicates(max_remembered), 0
    kept: list[tuple[int, int]] = []
    for ticket, step_ms in heard:
        timestamp_ms += step_ms
        if duplicates.keep("p", ticket, "q", timestamp_ms):
            kept.append((ticket, timestamp_ms))
        assert len(duplicates) <= max_remembered
        for late, kept_ms in kept[-(max_remembered // 2) :]:
            if timestamp_ms - kept_ms < 60_000:
                assert duplicates.is_repeat("p", late, "q", timestamp_ms)


def test_what_is_forgotten_too_early_is_counted() -> None:
    duplicates = Duplicates(10)
    for ticket in range(25):
        duplicates.keep("p", ticket, "q", 0)
    assert duplicates.evicted >= 15
    assert duplicates.keep("p", 0, "q", 0)


def test_a_flood_of_long_queries_is_not_held_in_memory() -> None:
    duplicates = Duplicates()
    assert duplicates.keep("p", 1, "x" * 65536, 0)
    assert not duplicates.keep("p", 1, "x" * 65536, 0)
    [identity] = duplicates._recent
    assert sum(sys.getsizeof(part) for part in identity) < 300
