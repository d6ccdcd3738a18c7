import re
from typing import Any

from collectors import summary


def status(**changes: Any) -> dict[str, Any]:
    return {
        "client_id": "eu",
        "started_at": "2027-01-02T03:04:05.678+00:00",
        "state": "listening",
        "detail": "child at level 1",
        "since": "2027-01-02T03:04:06.789+00:00",
        "role": "child",
        "level": 1,
        "kept_last_minute": 2820,
        "totals": {"kept": 1234567, "duplicates": 12, "refused": {}, "dropped": {}},
        "spool": {"searches": 30, "bytes": 2_500_000, "oldest_at": None},
        "database": {"connected": True, "error": None, "last_batch_at": "2027-01-02T03:05:00.000+00:00"},
        "clock": {"offset_ms": -3.21, "round_trip_ms": 1.0, "synchronised": True},
        "warning": None,
    } | changes


def test_all_is_well_in_a_line() -> None:
    assert summary.line(status()) == (
        "eu: listening (child, level 1); 2,820 searches in the last minute, 1,234,567 in all; 30 in the spool"
    )


def test_what_is_wrong_stands_in_the_line() -> None:
    line = summary.line(
        status(
            state="waiting",
            detail="2.0 s: kicked",
            totals={"kept": 1, "duplicates": 0, "refused": {}, "dropped": {"spool full": 7, "disk error": 1}},
            database={"connected": False, "error": "no route", "last_batch_at": None},
            warning="the key abcd2345 counts soon and is not here",
        )
    )
    assert line.startswith("eu: waiting (2.0 s: kicked); ")
    assert "database away (no route); 8 DROPPED (spool full, disk error); the key abcd2345 counts soon" in line


def test_the_page_is_one_table_that_says_when_it_was_true() -> None:
    page = summary.page(status())
    assert re.match(r"\| eu \| as of 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC \|\n\|---\|---\|\n", page)
    assert "| State | listening (child, level 1), since 2027-01-02 03:04:06 UTC |" in page
    assert "| Last batch | 2027-01-02 03:05:00 UTC |" in page
    assert "| Started | 2027-01-02 03:04:05 UTC |" in page
    assert all(line.count("|") == 3 for line in page.splitlines())
    assert "Warning" not in page
    assert "| Warning | it is late |" in summary.page(status(warning="it is late"))


def test_a_page_before_anything_happened() -> None:
    page = summary.page(
        status(
            state="connecting",
            detail="",
            role=None,
            database={"connected": False, "error": None, "last_batch_at": None},
            clock=None,
        )
    )
    assert "| State | connecting, since " in page
    assert "| Last batch | none yet |" in page
    assert "| Database | not connected |" in page
    assert "| Clock | not measured yet |" in page
