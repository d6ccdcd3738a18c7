import json
from datetime import UTC, datetime
from typing import Any

import pytest

from flows import tables

MOMENT = datetime(2027, 1, 2, 3, 4, 5, 678000, UTC)
ROWS: list[dict[str, Any]] = [
    {"client": "eu", "kept": 1234567, "last_batch": MOMENT, "listening": True, "dropped": {"spool full": 2, "ago": 1}},
    {"client": "us", "kept": None, "last_batch": None, "listening": False, "dropped": {}},
]


def printed(capsys: pytest.CaptureFixture[str], *args: Any, **options: Any) -> str:
    tables.show(*args, **options)
    return capsys.readouterr().out


def test_a_table_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, ROWS, title="What was kept")
    assert text.startswith("What was kept")
    for words in ("last batch", "1,234,567", "2027-01-02 03:04:05Z", "yes", "no", "1 ago, 2 spool full", "–"):
        assert words in text


def test_json_is_for_programs_and_complete(capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(printed(capsys, ROWS, title="What was kept", as_json=True))
    assert rows == [ROWS[0] | {"last_batch": MOMENT.isoformat()}, ROWS[1]]
    assert json.loads(printed(capsys, [], as_json=True, empty="Nothing.")) == []


def test_nothing_is_said_to_be_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, [], empty="No collector yet.") == "No collector yet.\n"


def test_what_somebody_searched_for_is_shown_and_not_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "a\x1b[31mred\x07 \u202ethgir \x9b2J \x00 [bold]b[/bold] :smile: https://x"
    text = printed(capsys, [{"query": hostile}])
    assert not {"\x1b", "\x07", "\u202e", "\x9b", "\x00"} & set(text)
    assert "[bold]b[/bold] :smile: https://x" in text
    assert json.loads(printed(capsys, [{"query": hostile}], as_json=True)) == [{"query": hostile}]


def test_nothing_is_cut_where_no_terminal_is(capsys: pytest.CaptureFixture[str]) -> None:
    row = {f"column {number}": f"value-{number}-" + "x" * 8 for number in range(8)}
    row["path"] = "/srv/archives/" + "y" * 200
    text = printed(capsys, [row])
    assert all(value in text for value in row.values())


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of 60 columns."""
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "60")


@pytest.mark.usefixtures("narrow")
def test_a_narrow_terminal_gets_fewer_columns_and_nothing_cut(capsys: pytest.CaptureFixture[str]) -> None:
    row = {
        "month": "2026-10",
        "state": "archived",
        "rows": 170_000_000,
        "usernames": "yes",
        "ratio": 6.5,
        "file": "x" * 12,
    }
    text = printed(capsys, [row], spare=("usernames", "ratio"))
    assert all(value in text for value in ("2026-10", "archived", "170,000,000", "6.5", "x" * 12))
    assert "usernames" not in text
    wide = printed(capsys, [{"month": "2026-10"}], spare=("month",))
    assert "2026-10" in wide


@pytest.mark.usefixtures("narrow")
def test_a_long_word_is_broken_and_not_cut(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, [{"month": "2026-10", "problem": "/srv/" + "z" * 100}])
    assert text.count("z") == 100


def test_a_title_is_not_broken_to_fit_a_small_table(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, [{"rows": 1}], title="\nWhat could not be taken")
    assert text.startswith("\nWhat could not be taken\n")


def test_numbers_stand_on_the_right_also_below_a_gap(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, [{"rows": None}, {"rows": 1_000_000}])
    assert "│         – │" in text
