"""A collector as a Prefect deployment: started by a worker, shown in the UI, cancelled; nothing is lost or leaks."""

import asyncio
import dataclasses
import json
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from soulseek_research.simulation.network import SimulatedNetwork
from soulseek_research.storage.embedded import EmbeddedServer
from tests import kept
from tests.conftest import open_folder
from tests.kept import Kept
from tests.prefect_server import CHECKOUT, START_SECONDS, PrefectServer, processes_of
from tests.program import until

pytestmark = pytest.mark.timeout(600)

ACCOUNT, PASSWORD = "listener-of-prefect", "correct-horse-battery"
MISTYPED, DATABASE_PASSWORD = "mistyped-staple", "another-secret"
SEARCHERS = ("seeker-of-truth", "Ищущий-Истину", "a\u00a0hostile\U0001f3b5name")
LAST_SEARCHES = 200

# Flow runs without a worker, one after the other, each with more in its environment than the one before.
RUNS = """
import asyncio, json, os, sys
from flows.collect import collect

async def main():
    for client_id, environment in json.loads(sys.argv[1]):
        os.environ.update(environment)
        state = await collect(client_id, return_state=True)
        print(json.dumps([state.type.value, state.name, state.message]))

asyncio.run(main())
"""


@dataclasses.dataclass(frozen=True)
class Life:
    """What was seen of a collector while Prefect ran it.

    Attributes:
        deployed: all deployments, before and after deploying again.
        second: the state of another run of the same client on the same machine.
        unfit: the states of runs that cannot listen, and what they said on stderr.
        artifacts: of the run that listened.
        logs: what it said in the UI.
        ended: its state at the end, after how many seconds of cancelling.
        sent: what was forwarded to it, by username, ticket and query.
        leaks: where something stands that must not.
    """

    deployed: tuple[list[dict[str, Any]], list[dict[str, Any]]]
    second: dict[str, Any]
    unfit: tuple[list[list[str]], str]
    artifacts: list[dict[str, Any]]
    logs: list[str]
    ended: tuple[dict[str, Any], float]
    task_runs: int
    sent: Counter[tuple[str, int, str]]
    kept: Kept
    leaks: list[str]


@pytest.fixture(scope="module")
def life() -> Iterator[Life]:
    """One life for all tests: what Prefect starts, it starts slowly."""
    with open_folder() as folder, PrefectServer(folder) as server:
        yield asyncio.run(live(server, folder))


async def live(server: PrefectServer, folder: Path) -> Life:
    async with SimulatedNetwork(rate=20, hostile_share=0) as network:
        environment = an_account(folder, network)
        deployed, _ = await asyncio.gather(
            asyncio.to_thread(server.deploy), asyncio.to_thread(server.start_worker, "eu", environment)
        )
        run = server.start_run("collect/eu")
        await network.until_heard(ACCOUNT, seconds=START_SECONDS)
        await search(network, "the first", 10)

        again = server.start_run("collect/eu")
        redeployed, unfit = await asyncio.gather(
            asyncio.to_thread(server.deploy), asyncio.to_thread(run_unfit, server, environment)
        )
        second = await asyncio.to_thread(server.ended, again)
        artifacts = await asyncio.to_thread(until, lambda: shown(server, run), "its summary is shown")
        found_running = await asyncio.to_thread(leaks, server)

        await search(network, "the last", LAST_SEARCHES)
        network.silent = True
        began = time.monotonic()
        server.cancel(run)
        ended = await asyncio.to_thread(server.ended, run)
        await gone(run)
        ended_after = time.monotonic() - began
    return Life(
        deployed=(deployed, redeployed),
        second=second,
        unfit=unfit,
        artifacts=artifacts,
        logs=[one["message"] for one in server.all_of("logs") if one["flow_run_id"] == run],
        ended=(ended, ended_after),
        task_runs=server.post("task_runs/count"),
        sent=forwarded(network),
        kept=await asyncio.to_thread(kept.read, folder / "data"),
        leaks=found_running + leaks(server),
    )


async def search(network: SimulatedNetwork, words: str, times: int) -> None:
    """Let somebody search whose name occurs nowhere else."""
    for number in range(times):
        await network.send((SEARCHERS[number % len(SEARCHERS)], network.ticket(), f"{words} {number}"))


def an_account(folder: Path, network: SimulatedNetwork) -> dict[str, str]:
    """What a worker has in its environment."""
    host, port = network.server_address
    network.set_password(ACCOUNT, PASSWORD)
    secret = folder / "soulseek.password"
    secret.write_text(f"{PASSWORD}\n")
    return {
        "SOULSEEK_RESEARCH_USERNAME": ACCOUNT,
        "SOULSEEK_RESEARCH_PASSWORD_FILE": str(secret),
        "SOULSEEK_RESEARCH_SERVER": f"{host}:{port}",
        "SOULSEEK_RESEARCH_DATA_DIR": str(folder / "data"),
        "SOULSEEK_RESEARCH_LOG_LEVEL": "DEBUG",
    }


def run_unfit(server: PrefectServer, environment: dict[str, str]) -> tuple[list[list[str]], str]:
    """Run what cannot listen: the states, and what was said on stderr."""
    data = Path(environment["SOULSEEK_RESEARCH_DATA_DIR"])
    elsewhere = server.folder / "elsewhere"
    shutil.copytree(data / "keys", elsewhere / "keys")
    database = EmbeddedServer(data / "postgres")
    try:
        cases: list[tuple[str, dict[str, str]]] = [
            ("../elsewhere", {}),
            ("us", {"SOULSEEK_RESEARCH_USERNAME": ""}),
            ("us", {"SOULSEEK_RESEARCH_USERNAME": ACCOUNT, "SOULSEEK_RESEARCH_PASSWORD": MISTYPED}),
            ("eu", {"SOULSEEK_RESEARCH_DATA_DIR": str(elsewhere), "SOULSEEK_RESEARCH_DATABASE_URL": database.start()}),
            ("us", {"SOULSEEK_RESEARCH_DATABASE_URL": f"sqlite://u:{DATABASE_PASSWORD}@h/searches.db"}),
        ]
        states, said = server.call("-c", RUNS, json.dumps(cases), cwd=elsewhere, environment=environment)
    finally:
        database.release()
    return [json.loads(line) for line in states.splitlines()], said


def forwarded(network: SimulatedNetwork) -> Counter[tuple[str, int, str]]:
    return Counter(one.identity for one in network.sent.to(ACCOUNT))


def stored(found: Kept) -> Counter[tuple[str, int, str]]:
    return Counter((one.username, one.ticket, one.query) for one in found.searches)


def shown(server: PrefectServer, run: str) -> list[dict[str, Any]]:
    time.sleep(0.3)
    return [one for one in server.post("artifacts/filter") if one["flow_run_id"] == run]


def leaks(server: PrefectServer) -> list[str]:
    """Where a searcher, the account or a secret stands: in any file that was written, and in all that the API tells."""
    answers = json.dumps(list(server.told()), ensure_ascii=False)
    assert "aioslsk.network" in answers, "it tells what was logged at DEBUG"
    (server.folder / "answers.json").write_text(answers)
    keys = [json.loads(path.read_text())["secret"] for path in server.folder.glob("data/keys/*.key")]
    named = kept.files_naming(server.folder, *SEARCHERS, ACCOUNT, PASSWORD, MISTYPED, DATABASE_PASSWORD, *keys)
    own = ("./soulseek.password:", "./data/keys/", "./elsewhere/keys/")
    # Prefect writes down what a run has in its environment, for as long as it runs: so a secret is to come in a file.
    return [line for line in named if not line.startswith(own) and not line.endswith(f"/workspace.json:{ACCOUNT}")]


def test_it_is_deployed_for_each_region_and_safely_again(life: Life) -> None:
    for deployments in life.deployed:
        collectors = [one for one in deployments if "collector" in one["tags"]]
        assert {(one["name"], one["work_pool_name"], one["parameters"]["client_id"]) for one in collectors} == {
            ("eu", "eu", "eu"),
            ("us", "us", "us"),
        }
        assert all(one["entrypoint"] == "flows.collect.collect" for one in collectors)
        # Nothing of the machine that deploys is in it.
        assert str(CHECKOUT) not in json.dumps(deployments)
    first, second = life.deployed
    assert {one["id"] for one in first} == {one["id"] for one in second}


def test_what_it_hears_is_shown_on_one_page(life: Life) -> None:
    (artifact,) = life.artifacts
    assert (artifact["key"], artifact["type"]) == ("collector-eu", "markdown")
    assert "listening (child, level 1)" in artifact["data"]
    assert "Database | connected" in artifact["data"]
    said = "\n".join(life.logs)
    assert "listening: child at level 1" in said
    assert "eu: listening (child, level 1); " in said
    assert "Keep a copy apart from the database" in said, "what it warns of"


def test_no_batch_is_a_task(life: Life) -> None:
    assert life.task_runs == 0


def test_a_second_start_is_skipped(life: Life) -> None:
    assert (life.second["type"], life.second["name"]) == ("COMPLETED", "Skipped")
    assert "in use by another collector" in life.second["message"]


def test_cancelling_flushes_everything_and_ends_the_process(life: Life) -> None:
    state, seconds = life.ended
    assert (state["type"], state["message"]) == ("CANCELLED", "Stopped, with everything flushed.")
    assert seconds < 30
    assert sum(life.sent.values()) > LAST_SEARCHES
    assert stored(life.kept) == life.sent
    assert life.kept.endings() == {("child", 1, "stopped"): 1}
    assert all(life.kept.covers(moment) for moment in life.kept.times)
    assert life.kept.counted("kept") == life.kept.kept_by_minutes == len(life.kept.searches)
    assert not life.kept.gaps


def test_what_cannot_listen_fails_in_one_line(life: Life) -> None:
    states, said = life.unfit
    client_id, account, password, elsewhere, database = states
    assert client_id[:2] == account[:2] == password[:2] == database[:2] == ["FAILED", "Failed"]
    assert client_id[2].startswith("--client-id: use 1 to 64 letters")
    assert account[2].startswith("--username is needed (or SOULSEEK_RESEARCH_USERNAME")
    assert "the password is wrong" in password[2]
    assert "PostgreSQL is needed, not SQLite" in database[2]
    assert elsewhere[:2] == ["COMPLETED", "Skipped"]
    assert not any("\n" in message for _, _, message in states)
    assert "Traceback" not in said


def test_nobody_is_named_and_no_secret_told_anywhere(life: Life) -> None:
    assert not life.leaks


@pytest.mark.prove
async def test_whatever_ends_a_run_nothing_is_lost() -> None:
    """SIGTERM of the worker, of the run, of the run while the server is away; suspending it; kill -9 of the worker."""
    with open_folder() as folder, PrefectServer(folder) as server:
        async with SimulatedNetwork(rate=50, hostile_share=0) as network:
            environment = an_account(folder, network)
            await asyncio.to_thread(server.deploy)

            worker = await asyncio.to_thread(server.start_worker, "eu", environment)
            run = await hearing(server, network)
            await asyncio.to_thread(worker.stop)
            await gone(run)

            worker = await asyncio.to_thread(server.start_worker, "eu", environment)
            run = await hearing(server, network)
            terminate(run)
            assert (await asyncio.to_thread(server.ended, run))["type"] == "CRASHED"
            await gone(run)

            run = await hearing(server, network)
            server.halt()
            network.silent = False
            await asyncio.sleep(30)
            network.silent = True
            terminate(run)
            await asyncio.to_thread(until, lambda: not network.accounts(ACCOUNT), "it leaves the network", 10)
            await asyncio.sleep(10)
            server.go_on()
            await gone(run)

            run = await hearing(server, network)
            server.suspend(run)
            await gone(run)
            assert server.state(run)["name"] == "Suspended"

            run = await hearing(server, network)
            worker.kill()
            server.cancel(run)
            assert (await asyncio.to_thread(server.ended, run))["message"] == "Stopped, with everything flushed."
            await gone(run)
        found = await asyncio.to_thread(kept.read, folder / "data")
    assert stored(found) == forwarded(network)
    assert found.counted("kept") == len(found.searches)
    assert not found.gaps


async def hearing(server: PrefectServer, network: SimulatedNetwork) -> str:
    """Start a run, and wait until it has heard something and that is in its spool."""
    network.silent = False
    run = server.start_run("collect/eu")
    await network.until_heard(ACCOUNT, seconds=START_SECONDS)
    await asyncio.sleep(5)
    network.silent = True
    await asyncio.sleep(2)
    return run


def terminate(run: str) -> None:
    (process,) = processes_of(run)
    os.kill(process, signal.SIGTERM)


async def gone(run: str) -> None:
    await asyncio.to_thread(until, lambda: not processes_of(run), "its process is gone", 90)
