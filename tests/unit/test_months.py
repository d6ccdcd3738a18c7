"""The months that the archive is measured with are as real as the people who made their first block."""

import polars as pl
import pytest

from soulseek_research.storage.archive.month import Month
from tests import months
from tests.months import Block

MONTH = Month(2026, 10)


@pytest.fixture(scope="module")
def block() -> Block:
    return months.block(2000, people=200)


def test_a_month_has_as_many_searches_as_asked_for_all_in_it_and_in_order(block: Block) -> None:
    rows = pl.concat(months.rows(MONTH, 2 * len(block.searches) + 7, block))

    times = rows["timestamp"]
    assert len(rows) == 2 * len(block.searches) + 7
    assert rows.columns == list(months.COLUMNS)
    assert times.is_sorted()
    assert MONTH.start <= times[0]
    assert times[-1] < MONTH.end


def test_more_searches_than_fit_the_month_at_that_pace_come_faster(block: Block) -> None:
    slow = Block(block.searches, milliseconds=20 * 24 * 3600 * 1000)

    *_, last = months.rows(MONTH, 3 * len(block.searches), slow)

    assert last["timestamp"][-1] < MONTH.end


def test_a_variation_is_made_of_other_queries_that_are_as_long_and_as_often_asked(block: Block) -> None:
    first, second = months.rows(MONTH, 2 * len(block.searches), block)

    before, after = first["query"], second["query"]
    assert (before.str.len_bytes() == after.str.len_bytes()).all()
    assert before.n_unique() == after.n_unique()
    assert pl.concat([before, after]).n_unique() > 1.9 * before.n_unique()
    assert first["username"].equals(second["username"])
    assert not (first["ticket"] == second["ticket"]).all()
    assert second["ticket"].max() < 1 << 32  # type: ignore[operator]
