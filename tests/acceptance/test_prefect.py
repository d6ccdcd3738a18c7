"""A collector as a Prefect deployment: a worker starts it, the UI shows it, cancelling it flushes, and nothing leaks."""

import asyncio
import dataclasses
import json
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
from tests.ports import free_port
from tests.prefect_server import START_SECONDS, PrefectServer, processes_of
from tests.program import until

pytestmark = pytest.mark.timeout(600)

ACCOUNT, PASSWORD = "the-listener", "correct-horse-battery"
OTHER_ACCOUNT, OTHER_PASSWORD, MISTYPED = "the-other-listener", "only-this-one", "mistyped-staple"
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
        ended: its state at the end, after how many seconds of cancelling.
        sent: what was forwarded to it, by username, ticket and query.
        leaks: where something stands that must not.
    """

    deployed: tuple[list[dict[str, Any]], list[dict[str, Any]]]
    second: dict[str, Any]
    unfit: tuple[list[list[str]], str]
    artifacts: list[dict[str, Any]]
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
        for pool in ("eu", "us"):
            server.post("work_pools/", name=pool, type="process")
        deployed, _ = await asyncio.gather(
            asyncio.to_thread(server.deploy), asyncio.to_thread(server.start_worker, "eu", **environment)
        )
        run = server.start_run("collect/eu")
        await network.until_heard(ACCOUNT, seconds=START_SECONDS)

        again = server.start_run("collect/eu")
        redeployed, unfit = await asyncio.gather(
            asyncio.to_thread(server.deploy), asyncio.to_thread(run_unfit, server, environment)
        )
        second = await asyncio.to_thread(server.ended, again)
        artifacts = await asyncio.to_thread(until, lambda: shown(server, run), "its summary is shown")

        for number in range(LAST_SEARCHES):
            await network.send((SEARCHERS[number % len(SEARCHERS)], number, f"among the last {number}"))
        network.silent = True
        began = time.monotonic()
        server.cancel(run)
        ended = await asyncio.to_thread(server.ended, run)
        await asyncio.to_thread(until, lambda: not processes_of(run), "its process is gone")
        ended_after = time.monotonic() - began
    return Life(
        deployed=(deployed, redeployed),
        second=second,
        unfit=unfit,
        artifacts=artifacts,
        ended=(ended, ended_after),
        task_runs=server.post("task_runs/count"),
        sent=Counter(one.identity for one in network.sent.to(ACCOUNT)),
        kept=await asyncio.to_thread(kept.read, folder / "data"),
        leaks=leaks(server),
    )


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
        states, said = server.call("-c", RUNS, json.dumps(cases), **environment)
    finally:
        database.release()
    return [json.loads(line) for line in states.splitlines()], said


def shown(server: PrefectServer, run: str) -> list[dict[str, Any]]:
    return [one for one in server.post("artifacts/filter") if one["flow_run_id"] == run]


def leaks(server: PrefectServer) -> list[str]:
    """Where a searcher, the account or a secret is named: in any file, and in all that the API tells."""
    answers = {path: list(pages(server, path)) for path in TOLD}
    (server.folder / "answers.json").write_text(json.dumps(answers, ensure_ascii=False))
    assert SEARCH_OF_ALL in (server.folder / "answers.json").read_text()
    keys = [json.loads(path.read_text())["secret"] for path in server.folder.glob("data/keys/*.key")]
    named = kept.files_naming(
        server.folder, *SEARCHERS, ACCOUNT, PASSWORD, MISTYPED, DATABASE_PASSWORD, *keys
    )
    return [line for line in named if not line.startswith(("./soulseek.password:", "./data/keys/", "./elsewhere/keys/"))]


def pages(server: PrefectServer, path: str) -> Iterator[Any]:
    offset = 0
    while page := server.post(path, limit=100, offset=offset):
        yield from page
        offset += len(page)
