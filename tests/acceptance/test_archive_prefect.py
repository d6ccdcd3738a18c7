"""Archives as Prefect deployments: a database that is cut off in the midst, a range that fails in part, and back."""

import asyncio
import dataclasses
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from soulseek_research.storage.archive.month import Month
from tests import databases, frozen, kept
from tests.conftest import open_folder
from tests.frozen import LATER_MONTH, MONTH
from tests.prefect_server import START_SECONDS, PrefectServer, processes_of
from tests.program import until
from tests.proxy import Proxy

pytestmark = pytest.mark.timeout(600)

SECRET = "correct-horse-battery-staple"
THIS_MONTH = LATER_MONTH.plus(1)
PAST, PAST_TOO = MONTH.plus(-2), MONTH.plus(-1)
ROWS = 20_000


@dataclasses.dataclass(frozen=True)
class Seen:
    """What was seen of the deployments.

    Attributes:
        deployments: those of archives, by name.
        runs: the final states: of the months that were due, of a range, and of bringing one back.
        artifacts: the latest of each key, with its kind.
        task_runs: by the run that they belong to, their names, states and how often they were tried.
        subflows: names and states of the runs that a range consists of.
        catalogue: month and state of each part, and whether it is in the database.
        restored: whether the month that was brought back is what it was.
        leaks: where a secret stands.
    """

    deployments: dict[str, dict[str, Any]]
    runs: dict[str, dict[str, Any]]
    artifacts: dict[str, dict[str, Any]]
    task_runs: dict[str, list[tuple[str, str, int]]]
    subflows: dict[str, str]
    catalogue: list[tuple[Month, str, bool]]
    restored: bool
    leaks: list[str]


@pytest.fixture(scope="module")
def seen(server_dsn: str, template: str) -> Iterator[Seen]:
    """One life for all tests: what Prefect starts, it starts slowly."""
    with open_folder() as folder, PrefectServer(folder) as server:
        yield asyncio.run(live(server, folder, server_dsn, template))


async def live(server: PrefectServer, folder: Path, server_dsn: str, template: str) -> Seen:
    async with databases.fresh(server_dsn, f"TEMPLATE {template}") as dsn, Proxy(dsn) as proxy:
        await frozen.store(dsn, frozen.searches(ROWS), MONTH)
        await frozen.store(dsn, frozen.searches(100, LATER_MONTH, 100_001), LATER_MONTH)
        rows = await frozen.held(dsn)
        environment = surroundings(folder, proxy)
        deployments, _ = await asyncio.gather(
            asyncio.to_thread(server.deploy), asyncio.to_thread(server.start_worker, "archive", environment)
        )
        runs = {}
        proxy.at_copied = (500_000, proxy.cut)
        runs["monthly"] = server.start_run("archive/monthly")
        await asyncio.to_thread(server.ended, runs["monthly"])

        await frozen.store(dsn, frozen.searches(100, PAST, 200_001), PAST)
        await frozen.store(dsn, frozen.searches(100, PAST_TOO, 300_001), PAST_TOO)
        put_in_the_way(folder, PAST)
        # Also of months that are archived, in part or whole, and of one that is not over.
        runs["backfill"] = server.start_run("backfill/backfill", first=str(PAST), last=str(THIS_MONTH))
        # At the same time: where both want the same month, one waits for the other.
        runs["restore"] = server.start_run("restore/restore", month=str(MONTH))
        for run in runs.values():
            await asyncio.to_thread(server.ended, run)
        return Seen(
            deployments={one["name"]: one for one in deployments if "archive" in one["tags"]},
            runs={name: server.state(run) for name, run in runs.items()},
            artifacts={one["key"]: one for one in server.all_of("artifacts")},
            task_runs={name: task_runs(server, run) for name, run in runs.items()},
            subflows={
                one["name"]: one["state"]["type"] for one in server.all_of("flow_runs") if one["parent_task_run_id"]
            },
            catalogue=await catalogue(dsn),
            restored=await frozen.held(dsn) == rows,
            leaks=leaks(server),
        )


def surroundings(folder: Path, proxy: Proxy) -> dict[str, str]:
    """What a worker has in its environment."""
    url = folder / "database.url"
    # The embedded PostgreSQL trusts whoever reaches it, so that a password may be anything.
    url.write_text(proxy.dsn.replace("@127.0.0.1", f":{SECRET}@127.0.0.1"))
    return {
        "SOULSEEK_RESEARCH_DATABASE_URL_FILE": str(url),
        "SOULSEEK_RESEARCH_DATA_DIR": str(folder / "data"),
        "SOULSEEK_RESEARCH_ARCHIVE": str(folder / "archives"),
    }


def put_in_the_way(folder: Path, month: Month) -> None:
    """Let somebody else's archive lie where that of a month would."""
    manifest = folder / "archives" / f"{month.year:04}" / f"searches_{month}.parquet.manifest.json"
    manifest.parent.mkdir(exist_ok=True)
    manifest.write_text("{}")


def task_runs(server: PrefectServer, run: str) -> list[tuple[str, str, int]]:
    found = [one for one in server.all_of("task_runs") if one["flow_run_id"] == run]
    return [
        (one["name"], one["state"]["type"], one["run_count"])
        for one in sorted(found, key=lambda one: one["start_time"])
    ]


async def catalogue(dsn: str) -> list[tuple[Month, str, bool]]:
    async with databases.connected(dsn) as connection:
        rows = await connection.fetch("SELECT * FROM archives ORDER BY month, part")
    return [(Month.of(row["month"]), row["state"], row["table_name"] is not None) for row in rows]


def leaks(server: PrefectServer) -> list[str]:
    (server.folder / "answers.json").write_text(json.dumps(list(server.told()), ensure_ascii=False))
    return [line for line in kept.files_naming(server.folder, SECRET) if not line.startswith("./database.url:")]


def test_they_are_deployed_with_a_timetable(seen: Seen) -> None:
    assert {name: one["entrypoint"] for name, one in seen.deployments.items()} == {
        "monthly": "flows.archive.archive",
        "backfill": "flows.backfill.backfill",
        "restore": "flows.restore.restore",
    }
    assert {one["work_pool_name"] for one in seen.deployments.values()} == {"archive"}
    assert all(one["enforce_parameter_schema"] and one["description"] for one in seen.deployments.values())
    schedules = {name: [one["schedule"] for one in found["schedules"]] for name, found in seen.deployments.items()}
    assert schedules["backfill"] == schedules["restore"] == []
    (timetable,) = schedules["monthly"]
    assert (timetable["cron"], timetable["timezone"]) == ("0 4 3,10 * *", "UTC")


def test_a_database_that_is_cut_off_in_the_midst_is_waited_for(seen: Seen) -> None:
    state = seen.runs["monthly"]
    assert (state["type"], state["name"]) == ("COMPLETED", "Completed")
    assert f"{MONTH}: {ROWS:,} rows in " in state["message"]
    assert f"{LATER_MONTH}: 100 rows in " in state["message"]
    steps = ("seal", "export", "verify", "record", "delete")
    assert [(name, state) for name, state, _ in seen.task_runs["monthly"]] == [
        ("find months", "COMPLETED"),
        *((f"{step} {MONTH}", "COMPLETED") for step in steps),
        *((f"{step} {LATER_MONTH}", "COMPLETED") for step in steps[:-1]),
    ]
    assert [tried for name, _, tried in seen.task_runs["monthly"] if name == f"export {MONTH}"] == [2]


def test_its_progress_and_its_end_are_shown(seen: Seen) -> None:
    progress = seen.artifacts[f"export-{MONTH}"]
    assert (progress["type"], progress["data"]) == ("progress", 100.0)
    assert f"{MONTH}, exporting: {ROWS:,} " in progress["description"]
    shown = seen.artifacts[f"archive-{MONTH}"]
    assert shown["type"] == "table"
    figures = {line["figure"]: line[str(MONTH)] for line in json.loads(shown["data"])}
    assert figures["rows"] == f"{ROWS:,}"
    assert figures["in the database"] == "no longer"
    assert figures["checksum of the rows"].startswith("v1:")
    assert figures["path"].endswith(f"/archives/{MONTH.year}/searches_{MONTH}.parquet")
    assert {"table", "file", "ratio", "seconds", "query in the file"} <= figures.keys()


def test_a_range_goes_on_past_a_month_that_fails(seen: Seen) -> None:
    state = seen.runs["backfill"]
    assert (state["type"], state["message"]) == ("FAILED", f"2 of 5 months failed: {PAST}, {THIS_MONTH}")
    shown = json.loads(seen.artifacts[f"backfill-{PAST}-{THIS_MONTH}"]["data"])
    assert {f"archive {one['month']}": one["ended"].upper() for one in shown} == seen.subflows
    ended = {one["month"]: (one["ended"], one["how"]) for one in shown}
    assert (ended[str(PAST)][0], ended[str(PAST_TOO)][0]) == ("Failed", "Completed")
    assert f"searches_{PAST}.parquet" in ended[str(PAST)][1]
    assert ended[str(MONTH)] == ("Completed", f"{MONTH}: nothing of it is in the database that is not archived")
    assert ended[str(THIS_MONTH)] == ("Failed", f"{THIS_MONTH} is not over")


def test_a_month_comes_back_as_it_was(seen: Seen) -> None:
    assert seen.runs["restore"]["type"] == "COMPLETED"
    assert seen.restored
    assert seen.catalogue == [
        (PAST, "sealed", True),
        (PAST_TOO, "archived", False),
        (MONTH, "archived", True),
        (LATER_MONTH, "archived", True),
    ]


def test_no_secret_is_told_anywhere(seen: Seen) -> None:
    assert not seen.leaks


@pytest.mark.prove
async def test_whatever_ends_a_run_the_next_one_goes_on(database: str) -> None:
    """Kill -9 of a run, and cancelling one, both while it exports."""
    await frozen.store(database, frozen.searches(ROWS))
    rows = await frozen.held(database)
    with open_folder() as folder, PrefectServer(folder) as server:
        async with Proxy(database) as proxy:
            await asyncio.to_thread(server.deploy)
            await asyncio.to_thread(server.start_worker, "archive", surroundings(folder, proxy))

            run = await exporting(server, proxy)
            (process,) = processes_of(run)
            os.kill(process, signal.SIGKILL)
            proxy.resume()
            assert (await asyncio.to_thread(server.ended, run))["type"] == "CRASHED"

            run = await exporting(server, proxy)
            server.cancel(run)
            await asyncio.sleep(5)
            proxy.resume()
            assert (await asyncio.to_thread(server.ended, run))["type"] == "CANCELLED"
            await asyncio.to_thread(until, lambda: not processes_of(run), "its process is gone", 30)
            assert await catalogue(database) == [(MONTH, "sealed", True)]
            assert await frozen.held(database) == rows

            run = server.start_run("archive/monthly")
            assert (await asyncio.to_thread(server.ended, run))["type"] == "COMPLETED"
        assert await catalogue(database) == [(MONTH, "archived", False)]
        files = sorted(path.name for path in (folder / "archives").rglob("*") if path.is_file())
    assert files == [f"searches_{MONTH}.parquet", f"searches_{MONTH}.parquet.manifest.json"]


async def exporting(server: PrefectServer, proxy: Proxy) -> str:
    """Start a run, and hold its export up in the midst."""
    proxy.at_copied = (500_000, proxy.stall)
    run = server.start_run("archive/monthly")
    await asyncio.to_thread(until, lambda: proxy.at_copied is None, "the export is under way", START_SECONDS)
    return run
