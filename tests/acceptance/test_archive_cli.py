"""Months archived on the command line, by processes as people start them."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from flows.commands.retain import retain
from tests import frozen
from tests.command_line import COMMAND, run, surroundings
from tests.conftest import open_folder
from tests.frozen import MONTH
from tests.program import Program, until
from tests.proxy import Proxy

ROWS = 20_000
NAME = f"searches_{MONTH}.parquet"


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder() as folder:
        yield folder


async def test_ctrl_c_ends_in_the_midst_and_the_next_run_goes_on(folder: Path, database: str) -> None:
    await frozen.store(database, frozen.searches(ROWS))
    rows = await frozen.held(database)
    async with Proxy(database) as proxy:
        proxy.at_copied = (500_000, proxy.stall)
        async with archiving(folder, proxy.dsn) as program:
            await asyncio.to_thread(until, lambda: proxy.at_copied is None, "the export is under way")
            program._process.send_signal(signal.SIGINT)
            await asyncio.sleep(0.5)
            proxy.resume()
            assert await asyncio.to_thread(program._process.wait, 20) == 130
        assert program.said().strip() == ""
    assert await frozen.held(database) == rows

    (part,) = await told(folder, database, "archives")
    assert part["state"] == "sealed"
    (part,) = await told(folder, database, "archive", "--month", str(MONTH))
    assert (part["state"], part["rows"], part["in_database"]) == ("archived", ROWS, None)
    assert await frozen.held(database) == []
    files = [path.name for path in (folder / "archives").rglob("*") if path.is_file()]
    assert sorted(files) == [NAME, f"{NAME}.manifest.json"]
    (part,) = await told(folder, database, "restore", "--month", str(MONTH))
    assert await frozen.held(database) == rows


async def test_what_is_asked_for_as_json_is_json_and_no_question(
    folder: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await frozen.store(database, frozen.searches(100))
    await told(folder, database, "archive", "--month", str(MONTH))
    # As on a terminal.
    monkeypatch.setattr("flows.commands.retain._is_asked", lambda: True)
    environment = place(folder, database)
    ended = await asyncio.to_thread(CliRunner().invoke, retain, ["--archive-months", "1", "--json"], env=environment)
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert "say --yes" in ended.stderr
    (part,) = await told(folder, database, "archives")
    assert part["state"] == "archived"


@contextlib.asynccontextmanager
async def archiving(folder: Path, dsn: str) -> AsyncIterator[Program]:
    """A run of `archive` that is still under way."""
    command = [*COMMAND, "archive", "--month", str(MONTH)]
    environment = surroundings(folder) | place(folder, dsn)
    program = Program(command, folder / "archive.log", cwd=folder, env=environment)
    try:
        yield program
    finally:
        program.kill()


async def told(folder: Path, dsn: str, *arguments: str) -> Any:
    return (await asyncio.to_thread(lambda: run(folder, *arguments, "--json", **place(folder, dsn)))).json


def place(folder: Path, dsn: str) -> dict[str, str]:
    return {"SOULSEEK_RESEARCH_DATABASE_URL": dsn, "SOULSEEK_RESEARCH_ARCHIVE": str(folder / "archives")}
