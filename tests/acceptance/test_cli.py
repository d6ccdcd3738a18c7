"""The command line as people use it: processes, what they say, and how they end."""

import asyncio
import contextlib
import re
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from soulseek_research.simulation.network import SimulatedNetwork
from tests import databases
from tests.command_line import COMMAND, NOWHERE, SECRET, assert_refused, run, surroundings
from tests.conftest import open_folder
from tests.ports import free_port
from tests.program import Program, until


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder() as folder:
        yield folder


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["start"], "--username is needed (or SOULSEEK_RESEARCH_USERNAME in the environment or .env)"),
        (["start", "--username", "u", "--password", SECRET, "--server", "here"], "--server: write HOST:PORT"),
        (["start", "--username", "u", "--password", SECRET, "--database-url", NOWHERE], "cannot be reached"),
        (
            ["start", "--username", "u", "--password", SECRET, "--database-url", f"sqlite://{SECRET}@h/x.db"],
            "PostgreSQL is needed, not SQLite",
        ),
        (["status", "--database-url", f"postgresql://u:#{SECRET}@h/d"], "percent escapes"),
        (["status", "--database-url", NOWHERE, "--json"], "cannot be reached"),
        (["status", "--database-url-file", "missing"], "cannot be read: missing: No such file"),
        (["migrate", "--database-url", f"mysql://u:{SECRET}@h/d"], 'PostgreSQL is needed, not "mysql"'),
        (["psql", "--database-url", f"{SECRET}"], "malformed"),
        (["key", "rotate", "--at", "2027-01"], "--at: write a time as 2027-01-01T00:00Z"),
        (["key", "rotate", "--at", "2027-01-01T00:00"], "--at: say in which time zone"),
        (["key", "export", "abcd2345"], "is not on this machine"),
        (["key", "import"], "This is not an exported key"),
        (["key", "new", "--data-dir", "/dev/null/x"], "/dev/null/x"),
        (["migrate", "--data-dir", "/dev/null/x"], "/dev/null/x"),
        (["demo", "--data-dir", "/dev/null/x"], "/dev/null/x"),
        (["demo", "--seconds", "0"], "'--seconds': 0.0 is not in the range"),
        (["refill", "--client-id", "unheard-of"], "there is no spool at"),
        (["simulate", "--port", "99999"], "'--port': 99999 is not in the range"),
        (["simulate", "--manifest", "/dev/null/x"], "cannot be opened: Not a directory"),
        (["version", "extra"], "unexpected extra argument"),
    ],
)
def test_what_is_asked_wrongly_gets_one_line(folder: Path, arguments: list[str], words: str) -> None:
    assert_refused(run(folder, *arguments, stdin=SECRET), words)


def test_a_key_that_others_can_read_is_refused(folder: Path) -> None:
    key_id = run(folder, "key", "new").said.split()[0]
    (file,) = folder.rglob(f"{key_id}.key")
    assert run(folder, "key", "export", key_id).said.startswith("ssr-key-1:")
    file.chmod(0o644)
    assert_refused(run(folder, "key", "export", key_id), f"is open to others (mode 0644): run `chmod 600 {file}`")
    file.chmod(0o600)
    file.parent.chmod(0o755)
    assert_refused(run(folder, "key", "export", key_id), f"run `chmod 700 {file.parent}`")


@pytest.fixture
async def guarded(server_dsn: str, database: str) -> AsyncIterator[str]:
    """DSN of a migrated database whose login has this password and another is given."""
    login = "the_guarded"
    async with databases.connected(server_dsn) as connection:
        await connection.execute(f"CREATE ROLE {login} LOGIN")
        async with databases.asking(server_dsn, login, "another"):
            yield databases.as_user(database, login, SECRET)
        await connection.execute(f"DROP ROLE {login}")


async def test_a_wrong_database_password_is_told_and_not_repeated(folder: Path, guarded: str) -> None:
    (folder / "url").write_text(guarded)
    for command in (["status"], ["start", "--username", "u", "--password", SECRET, "--server", "127.0.0.1:1"]):
        done = await asyncio.to_thread(run, folder, *command, "--database-url-file", "url")
        assert_refused(done, "refuses the login (password authentication failed")


@pytest.mark.parametrize("arguments", [[], ["start"], ["key"], ["key", "rotate"]])
def test_help_is_given_without_doing_anything(folder: Path, arguments: list[str]) -> None:
    done = run(folder, *arguments, "--help")
    assert (done.code, done.complained) == (0, "")
    assert "Example:  soulseek-research" in done.said
    assert not list(folder.iterdir())


def test_no_command_is_no_mistake_but_a_question(folder: Path) -> None:
    for arguments in ([], ["key"]):
        done = run(folder, *arguments)
        assert done.code == 2
        assert done.complained.startswith("Usage: ")
        assert "Commands:" in done.complained


async def test_one_reads_flags_the_environment_and_dot_env_and_all_tell_json(folder: Path, database: str) -> None:
    (folder / "password").write_text(f"{SECRET}\n")
    (folder / ".env").write_text(
        "SOULSEEK_RESEARCH_USERNAME=the-listener\n"
        f"SOULSEEK_RESEARCH_DATABASE_URL={database}\n"
        "SOULSEEK_RESEARCH_CLIENT_ID=dotted\n"
        f"SOULSEEK_RESEARCH_SERVER=127.0.0.1:{free_port()}\n"
    )
    environment = {
        "SOULSEEK_RESEARCH_CLIENT_ID": "eu",
        "SOULSEEK_RESEARCH_PASSWORD_FILE": "password",
        "SOULSEEK_RESEARCH_LOG_LEVEL": "DEBUG",
        # Everything that is imported is told.
        "PYTHONPROFILEIMPORTTIME": "1",
    }
    async with SimulatedNetwork(rate=300) as network:
        network.set_password("the-listener", SECRET)
        host, port = network.server_address
        async with started(folder, "--server", f"{host}:{port}", **environment) as collector:
            await network.until_heard("the-listener", seconds=60)
            await asyncio.sleep(3)  # in which 500 searches come
            status = await asyncio.to_thread(until, lambda: listening(folder), "its first batch is committed")
            plain = await asyncio.to_thread(run, folder, "status")
            keys = (await asyncio.to_thread(run, folder, "key", "show", "--json")).json
    assert collector.stop() == 0
    sent = (await asyncio.to_thread(run, folder, "refill", "--json", "--client-id", "eu")).json

    assert status is not None
    assert (status["client"], status["role"], status["dropped"]) == ("eu", "child", {})
    assert "eu" in plain.said
    assert [(one["here"], one["registered"], one["in force"]) for one in keys] == [(True, True, True)]
    assert sent == {"client_id": "eu", "sent": 0}
    said = collector.said()
    assert "listening: child at level 1" in said
    assert SECRET not in said + plain.said + plain.complained
    imported = set(re.findall(r"^import time:.*\| +(\w+)$", said, re.MULTILINE))
    assert "aioslsk" in imported
    assert "prefect" not in imported


def listening(folder: Path) -> dict[str, Any] | None:
    (status,) = run(folder, "status", "--json").json
    return status if status["listening"] else None


@contextlib.asynccontextmanager
async def started(folder: Path, *arguments: str, **environment: str) -> AsyncIterator[Program]:
    """A collector, which is told to end as by Ctrl-C."""
    collector = Program(
        [*COMMAND, "start", *arguments], folder / "start.log", cwd=folder, env=surroundings(folder) | environment
    )
    try:
        yield collector
    finally:
        collector._process.send_signal(signal.SIGINT)
        await asyncio.to_thread(collector._process.wait, 30)


def test_versions_are_told(folder: Path) -> None:
    assert {"soulseek-research", "aioslsk", "prefect", "python"} <= set(run(folder, "version", "--json").json)
    assert run(folder, "version").said.startswith("soulseek-research ")
