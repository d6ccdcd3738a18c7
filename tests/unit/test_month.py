from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soulseek_research.storage.archive.errors import ArchiveError
from soulseek_research.storage.archive.month import Month, between

MONTHS = st.dates(date(1900, 1, 1), date(2900, 12, 31)).map(Month.of)


@given(MONTHS)
def test_what_is_written_can_be_read(month: Month) -> None:
    assert Month.parse(str(month)) == month
    assert Month.of(month.first_day) == month


@pytest.mark.parametrize(
    "text", ["2026-13", "2026-00", "2026-1", "0000-01", "26-10", "2026-10-01", "", "last", "２０２６-１０x"]
)
def test_what_is_no_month_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ArchiveError, match="is not a month: write it as YYYY-MM") as refused:
        Month.parse(text)
    assert "\n" not in str(refused.value)


@given(MONTHS, st.integers(-2000, 2000))
def test_months_can_be_counted_on_and_back(month: Month, months: int) -> None:
    assert month.plus(months).plus(-months) == month
    assert (month.plus(months) > month) == (months > 0)


@given(MONTHS)
def test_a_month_ends_where_the_next_begins(month: Month) -> None:
    assert month.end == month.plus(1).start
    assert Month.of(month.end - timedelta(milliseconds=1)) == month
    assert timedelta(days=28) <= month.end - month.start <= timedelta(days=31)


def test_a_moment_belongs_to_its_month_in_utc() -> None:
    new_year_in_tokyo = datetime(2027, 1, 1, 3, tzinfo=timezone(timedelta(hours=9)))
    assert Month.of(new_year_in_tokyo) == Month(2026, 12)
    assert Month(2026, 12).start == datetime(2026, 12, 1, tzinfo=UTC)


def test_a_range_holds_both_ends() -> None:
    assert [str(month) for month in between(Month(2025, 11), Month(2026, 2))] == [
        "2025-11",
        "2025-12",
        "2026-01",
        "2026-02",
    ]
    with pytest.raises(ArchiveError, match="2026-01 lies before 2026-02"):
        list(between(Month(2026, 2), Month(2026, 1)))
