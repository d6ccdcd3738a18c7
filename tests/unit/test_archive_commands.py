"""What is asked wrongly of the commands of archives."""

from pathlib import Path

import pytest

from flows import cli
from tests.command_line import NOWHERE, SECRET


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["archive", "--month", "2026-13"], '"2026-13" is not a month: write it as YYYY-MM'),
        (["archive", "--month", "2026-10", "--from", "2026-10"], "give one month or a range of months, not both"),
        (["archive", "--from", "2026-10"], "give both ends of the range"),
        (["archive", "--format", "zip"], "'--format': 'zip' is not one of 'parquet', 'csv.zst', 'csv.gz'"),
        (["archive", "--database-url", NOWHERE], "cannot be reached"),
        (["archive", "--dry-run", "--database-url", NOWHERE], "cannot be reached"),
        (["backfill", "--from", "2026-10", "--to", "2026-09"], "2026-09 lies before 2026-10"),
        (["backfill", "--from", "2026-10"], "Missing option '--to'"),
        (["restore"], "Missing option '--month'"),
        (["restore", "--month", "October"], '"October" is not a month'),
        (["restore", "--month", "2026-10", "--drop", "--database-url", NOWHERE], "cannot be reached"),
        (["archives", "--database-url", NOWHERE], "cannot be reached"),
        (["archives", "--verify", "--database-url", NOWHERE], "cannot be reached"),
        (["archives", "adopt", "--database-url", NOWHERE], "cannot be reached"),
    ],
)
def test_it_gets_one_line(
    arguments: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    said, complained = capsys.readouterr()
    assert ended.value.code in (1, 2)
    assert (said, complained.count("\n")) == ("", 1)
    assert complained.startswith("soulseek-research: ")
    assert words in complained
    assert SECRET not in complained


def test_a_wrong_variable_that_is_no_flag_is_named_as_what_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOULSEEK_RESEARCH_ARCHIVE_FORMAT", "zip")
    with pytest.raises(SystemExit) as ended:
        cli.main(["archive"])
    complained = capsys.readouterr().err
    assert (ended.value.code, complained.count("\n")) == (2, 1)
    assert complained.startswith("soulseek-research: SOULSEEK_RESEARCH_ARCHIVE_FORMAT: ")
