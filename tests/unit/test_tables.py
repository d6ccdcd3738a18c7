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
    text = printed(capsys, [row])
    assert all(value in text for value in row.values())
