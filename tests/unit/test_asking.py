import pytest

from flows import asking
from soulseek_research.storage.archive.errors import ArchiveError


@pytest.mark.parametrize(
    ("one", "first", "last", "months"),
    [
        (None, None, None, None),
        ("2026-10", None, None, ["2026-10"]),
        (None, "2025-11", "2026-02", ["2025-11", "2025-12", "2026-01", "2026-02"]),
        (None, "2026-10", "2026-10", ["2026-10"]),
    ],
)
def test_months_are_asked_for_as_one_or_as_a_range(
    one: str | None, first: str | None, last: str | None, months: list[str] | None
) -> None:
    asked = asking.months(one, first, last)
    assert (asked and [str(month) for month in asked]) == months


@pytest.mark.parametrize(
    ("one", "first", "last", "words"),
    [
        ("2026-13", None, None, '"2026-13" is not a month: write it as YYYY-MM'),
        ("", None, None, '"" is not a month'),
        ("2026-10", "2026-10", None, "one month or a range"),
        (None, "2026-10", None, "both ends"),
        (None, None, "2026-10", "both ends"),
        (None, "2026-10", "2026-09", "2026-09 lies before 2026-10"),
    ],
)
def test_what_is_no_month_or_range_is_refused(one: str | None, first: str | None, last: str | None, words: str) -> None:
    with pytest.raises(ArchiveError, match=words):
        asking.months(one, first, last)
