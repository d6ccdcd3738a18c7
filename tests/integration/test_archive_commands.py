"""The commands of archives, each with a database, in this process."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows import cli
from soulseek_research.storage.archive.month import Month
from tests import databases, frozen
from tests.command_line import SECRET, Done
from tests.frozen import LATER_MONTH, MONTH

ROWS = 500
EARLIER = MONTH.plus(-1)
THIS_MONTH = LATER_MONTH.plus(1)

Say = Callable[..., Done]


@pytest.fixture
def filled(database: str) -> str:
    """DSN of a database that holds two finished months."""
    fill(database, MONTH, 1)
    fill(database, LATER_MONTH, 100_001)
    return database


@pytest.fixture
def say(filled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Say:
    """Gives a command, as the command line does."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOULSEEK_RESEARCH_DATABASE_URL", filled)
    monkeypatch.setenv("SOULSEEK_RESEARCH_ARCHIVE", str(tmp_path / "archives"))

    def say(*arguments: str) -> Done:
        with pytest.raises(SystemExit) as ended:
            cli.main(arguments)
        assert isinstance(ended.value.code, int)
        return Done(ended.value.code, *capsys.readouterr())

    return say


def fill(dsn: str, month: Month, first_id: int) -> None:
    asyncio.run(frozen.store(dsn, frozen.searches(ROWS, month, first_id), month))


def held(dsn: str, month: Month = MONTH) -> list[Any]:
    return asyncio.run(frozen.held(dsn, month))


def test_months_go_into_files_and_come_back(say: Say, filled: str) -> None:
    rows = held(filled)
    assert len(rows) == ROWS
    plan = say("archive", "--dry-run", "--json").json
    assert [(line["month"], line["would"]) for line in plan] == [
        (str(MONTH), "seal, export, verify, record, drop"),
        (str(LATER_MONTH), "seal, export, verify, record"),
    ]
    assert say("archives").said.startswith("Nothing is archived yet")

    first, later = say("archive", "--json").json
    assert (first["month"], first["part"], first["state"], first["rows"]) == (str(MONTH), 1, "archived", ROWS)
    assert (later["month"], later["state"]) == (str(LATER_MONTH), "archived")
    # Retention keeps the last month that is over queryable.
    assert (first["in_database"], later["in_database"]) == (None, "sealed")
    assert (held(filled), len(held(filled, LATER_MONTH))) == ([], ROWS)
    (path,) = first["paths"]
    assert Path(path).stat().st_size == first["file_size"] > sum(first["column_sizes"].values())
    assert say("archives", "--json").json == [first, later]

    again = say("archive")
    assert (again.code, again.said) == (0, "There is nothing to archive.\n")

    (restored,) = say("restore", "--month", str(MONTH), "--json").json
    assert (restored["in_database"], restored["state"]) == ("restored", "archived")
    assert held(filled) == rows
    refused(say("restore", "--month", str(MONTH)), "is in the database already")
    (dropped,) = say("restore", "--month", str(MONTH), "--drop", "--json").json
    assert (dropped["in_database"], held(filled)) == (None, [])
    refused(say("restore", "--month", str(MONTH), "--drop"), "is not restored")


def test_what_is_kept_is_dropped_when_nobody_asks_to_keep_it_any_more(say: Say, filled: str) -> None:
    (kept,) = say("archive", "--month", str(MONTH), "--keep", "--format", "csv.gz", "--json").json
    assert (kept["in_database"], kept["format"]) == ("sealed", "csv.gz")
    assert len(held(filled)) == ROWS
    (line,) = say("archive", "--month", str(MONTH), "--dry-run", "--json").json
    assert line["would"] == "drop"
    (dropped,) = say("archive", "--month", str(MONTH), "--json").json
    assert (dropped["in_database"], held(filled)) == (None, [])
    assert "nothing of it" not in say("archive", "--month", str(MONTH)).complained


def test_a_file_that_was_changed_is_found_and_named(say: Say, tmp_path: Path) -> None:
    assert say("archive", "--format", "csv.zst").code == 0
    checked = say("archives", "--verify", "--json").json
    assert [(one["month"], one["sound"]) for one in checked] == [(str(MONTH), True), (str(LATER_MONTH), True)]
    (path,) = (tmp_path / "archives").rglob(f"searches_{MONTH}.csv.zst")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    done = say("archives", "--verify")
    assert (done.code, done.complained) == (1, "soulseek-research: 1 of 2 files are not as they should be\n")
    assert "SHA-256" in done.said
    done = say("restore", "--month", str(MONTH))
    assert done.code == 1
    assert "SHA-256" in done.complained.splitlines()[-1]


def test_a_lost_catalogue_is_rebuilt(
    say: Say, filled: str, server_dsn: str, template: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = held(filled)
    assert say("archive").code == 0
    with asyncio.Runner() as runner:
        fresh = databases.fresh(server_dsn, f"TEMPLATE {template}")
        other = runner.run(fresh.__aenter__())
        monkeypatch.setenv("SOULSEEK_RESEARCH_DATABASE_URL", other)
        adopted = say("archives", "adopt", "--json").json
        assert [(one["archive"], one["adopted"]) for one in adopted] == [(str(MONTH), True), (str(LATER_MONTH), True)]
        assert {one["why not"] for one in say("archives", "adopt", "--json").json} == {"it is in the catalogue"}
        assert say("restore", "--month", str(MONTH)).code == 0
        assert held(other) == rows
        in_doubt = tmp_path / "archives" / "2020" / "searches_2020-01.parquet.manifest.json"
        in_doubt.parent.mkdir()
        in_doubt.write_text("{}")
        done = say("archives", "adopt")
        assert (done.code, done.complained) == (1, "soulseek-research: 1 archives were found that are not adopted\n")
        runner.run(fresh.__aexit__(None, None, None))


def test_a_month_that_fails_stops_no_other(say: Say, filled: str, tmp_path: Path) -> None:
    fill(filled, EARLIER, 200_001)
    # Somebody else's archive lies where this one would.
    in_the_way = tmp_path / "archives" / f"{MONTH.year:04}" / f"searches_{MONTH}.parquet.manifest.json"
    in_the_way.parent.mkdir(parents=True)
    in_the_way.write_text("{}")
    done = say("backfill", "--from", str(EARLIER), "--to", str(THIS_MONTH), "--json")
    assert (done.code, done.complained.count("\n")) == (1, 1)
    assert in_the_way.name in done.complained
    assert f"{THIS_MONTH} is not over" in done.complained
    assert [one["month"] for one in json.loads(done.said)] == [str(EARLIER), str(LATER_MONTH)]
    listed = [(one["month"], one["state"]) for one in say("archives", "--json").json]
    assert listed == [(str(EARLIER), "archived"), (str(MONTH), "sealed"), (str(LATER_MONTH), "archived")]
    assert len(held(filled)) == ROWS


def test_no_secret_of_a_place_is_repeated(say: Say) -> None:
    done = say("archive", "--archive", f"s3://u:{SECRET}@bucket/prefix")
    assert done.code in (1, 2)
    assert SECRET not in done.complained + done.said


def refused(done: Done, words: str) -> None:
    assert (done.code, done.said, done.complained.count("\n")) == (1, "", 1)
    assert words in done.complained
