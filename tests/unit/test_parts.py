"""What people are shown of the parts of months."""

from dataclasses import fields, replace
from typing import Any

import pytest

from flows import parts
from soulseek_research.storage.archive.catalogue import Part, State
from soulseek_research.storage.archive.month import Month
from soulseek_research.storage.archive.settings import Format

_KNOWN: dict[str, Any] = {one.name: None for one in fields(Part)} | {
    "month": Month(2026, 8), "number": 1, "state": State.ARCHIVED, "format": Format.PARQUET, "usernames": True,
    "file_path": "2026/searches_2026-08.parquet", "places": ["/srv/" + "archives/" * 9, "s3://research/soulseek"],
    "rows": 170_000_000, "table_size": 27_000_000_000, "file_size": 4_200_000_000, "seconds": 900.0,
}  # fmt: skip
PART = Part(**_KNOWN)


def test_a_terminal_of_80_columns_shows_what_matters_whole(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    part = replace(PART, table_name="restored_2026_08_part1")
    parts.show([part], as_json=False)
    shown = capsys.readouterr().out
    for word in ("2026-08", "archived", "170,000,000", "27.0 GB", "4.2 GB", *PART.places):
        assert word in shown.replace("\n", "")


def test_what_has_no_file_yet_lies_nowhere(capsys: pytest.CaptureFixture[str]) -> None:
    parts.show([replace(PART, state=State.SEALED, file_path=None, places=[])], as_json=False)
    assert "lie in" not in capsys.readouterr().out
