from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soulseek_research.storage.archive import retention
from soulseek_research.storage.archive.errors import ArchiveError
from soulseek_research.storage.archive.month import Month
from soulseek_research.storage.archive.retention import Policy

months = st.builds(Month, st.integers(2000, 2100), st.integers(1, 12))
moments = st.datetimes(datetime(2001, 1, 1), datetime(2099, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001 - hypothesis'


@pytest.mark.parametrize(
    ("queryable", "stays", "goes"),
    [(0, "2026-12", "2026-11"), (1, "2026-11", "2026-10"), (2, "2026-10", "2026-09"), (12, "2025-12", "2025-11")],
)
def test_on_the_third_of_december(queryable: int, stays: str, goes: str) -> None:
    now = datetime(2026, 12, 3, 4, tzinfo=UTC)
    policy = Policy(queryable_months=queryable)
    assert not retention.droppable(Month.parse(stays), policy, now)
    assert retention.droppable(Month.parse(goes), policy, now)


def test_a_month_ages_at_midnight_utc() -> None:
    october = Month(2026, 10)
    assert retention.age(october, datetime(2026, 10, 31, 23, 59, 59, tzinfo=UTC)) == -1
    assert retention.age(october, datetime(2026, 11, 1, tzinfo=UTC)) == 0
    assert retention.age(october, datetime.fromisoformat("2026-12-01T00:30+01:00")) == 0
    assert retention.age(october, datetime(2027, 10, 31, tzinfo=UTC)) == 11


@given(months, moments, st.integers(0, 30))
def test_what_may_go_is_over_and_as_many_finished_months_are_newer(month: Month, now: datetime, queryable: int) -> None:
    newer = [month.plus(later) for later in range(1, queryable + 1)]
    expected = all(one.end <= now for one in [month, *newer])
    assert retention.droppable(month, Policy(queryable_months=queryable), now) is expected


@pytest.mark.parametrize(
    "policy",
    [Policy(), Policy(0, 1, 1), Policy(12, 12, 12), Policy(1, None, 3), Policy(1, 24, 12), Policy(0, None, None)],
)
def test_what_can_be_kept(policy: Policy) -> None:
    policy.check()


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (Policy(13, 12, None), "usernames cannot go after 12 months while tables stay for 13"),
        (Policy(13, None, 12), "archives cannot go after 12 months while tables stay for 13"),
        (Policy(0, 0, None), "usernames cannot go after 0 months while tables stay for 0, and not before one"),
    ],
)
def test_what_is_gone_from_the_archives_is_not_to_be_in_the_tables(policy: Policy, words: str) -> None:
    with pytest.raises(ArchiveError, match=words):
        policy.check()
