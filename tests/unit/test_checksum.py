"""The checksum, computed a second time as its module says, with the reference implementation of XXH64."""

import random

import xxhash
from hypothesis import given
from hypothesis import strategies as st

from soulseek_research.storage.archive.checksum import Measured
from soulseek_research.storage.archive.tally import Tally
from tests import archived


def of_row(row: archived.Row) -> int:
    number, moment, ticket, source, flags, *texts = row
    words = [number, archived.milliseconds(moment), ticket or 0, int(ticket is not None), source, flags]
    words += [xxhash.xxh64_intdigest(text.encode(), seed=0) for text in texts]
    folded = 0
    for word in words:
        folded = ((folded ^ (word % 2**64)) * 0x9E3779B97F4A7C15) % 2**64
        folded ^= folded >> 32
    return folded


def measured(*parts: list[archived.Row]) -> Measured:
    found = Measured()
    for part in parts:
        found.add(archived.table(part))
    return found


@given(st.lists(archived.ROWS, max_size=8))
def test_it_is_what_its_module_says(rows: list[archived.Row]) -> None:
    assert measured(rows).checksum_text == f"v1:{sum(map(of_row, rows)) % 2**64:016x}"


@given(st.lists(archived.ROWS, max_size=8), st.lists(archived.ROWS, max_size=8), st.randoms())
def test_neither_order_nor_pieces_change_it(
    first: list[archived.Row], second: list[archived.Row], dice: random.Random
) -> None:
    shuffled = dice.sample(first + second, len(first + second))
    assert measured(first, second).checksum == measured(shuffled).checksum
    assert measured(first, second).tally == measured(shuffled).tally == measured(first).tally + measured(second).tally


def test_every_column_of_every_row_counts() -> None:
    rows = archived.realistic(40_000)  # more than a block
    whole = measured(rows).checksum
    assert whole == sum(map(of_row, rows)) % 2**64
    changes = {0: -1, 1: archived.LAST, 2: None, 3: 2, 4: 1, 5: "us", 6: "4cqjynle.other", 7: "another"}
    for column, value in changes.items():
        for place in (0, 20_000, 39_999):
            changed = (*rows[place][:column], value, *rows[place][column + 1 :])
            assert measured([*rows[:place], changed, *rows[place + 1 :]]).checksum != whole, (column, place)


def test_texts_do_not_run_into_one_another() -> None:
    row = archived.realistic(1)[0]
    assert measured([(*row[:6], "ab", "c")]).checksum != measured([(*row[:6], "a", "bc")]).checksum


@given(st.lists(archived.ROWS, max_size=8))
def test_the_tally_counts_what_it_says(rows: list[archived.Row]) -> None:
    times = [archived.milliseconds(row[1]) for row in rows]
    assert measured(rows).tally == Tally(
        rows=len(rows),
        first_timestamp=min(times, default=None),
        last_timestamp=max(times, default=None),
        ids=sum(row[0] for row in rows),
        timestamps=sum(times),
        tickets=sum(row[2] or 0 for row in rows),
        without_ticket=sum(row[2] is None for row in rows),
        sources=sum(row[3] for row in rows),
        flags=sum(row[4] for row in rows),
        client_id_bytes=sum(len(row[5].encode()) for row in rows),
        username_bytes=sum(len(row[6].encode()) for row in rows),
        query_bytes=sum(len(row[7].encode()) for row in rows),
    )
    tally = measured(rows).tally
    assert Tally.from_json(tally.to_json()) == tally
    assert tally.differences(tally) == []
    assert tally.differences(tally + Tally(flags=3)) == [f"flags: {tally.flags} and {tally.flags + 3}"]
