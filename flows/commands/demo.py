"""`soulseek-research demo`: the whole thread from the wire to the row, on one machine and a simulated network."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.live import Live

from flows import options, tables
from soulseek_research.storage import location, overview, queries
from soulseek_research.storage.database import Role
from soulseek_research.storage.settings import StorageSettings

REGIONS = ("eu", "us")
# Of what is searched in one region, so much is heard in the other too; the rest only one of them hears.
OVERLAP = 0.8
DELAY_SECONDS = 0.25
# A minute shows what takes a real network an hour.
RATE = 150.0
SPEED = 60.0
# And ten people who want the same thing are met in a day there, not in a minute.
HIT_SHARE = 0.1
STOP_SECONDS = 30.0
# Where nothing can be drawn anew, in a log or a pipe.
REPORT_SECONDS = 10.0


@click.command(epilog="Example:  soulseek-research demo --seconds 20")
@options.from_settings(StorageSettings, "data_dir")
@click.option(
    "--seconds", type=click.FloatRange(min=1), default=60.0, show_default=True, help="How long; Ctrl-C ends it."
)
@click.option("--json", "as_json", is_flag=True, help="The tables at the end as JSON.")
def demo(settings: StorageSettings, seconds: float, as_json: bool) -> None:
    """Hear a simulated network in two regions for a minute, keep it in PostgreSQL, and show what was wanted.

    It has a database, keys and spools of its own, in the folder `demo` of the data directory.
    """
    folder = settings.data_dir / "demo"
    # Others may pass: as root, PostgreSQL is another user. What is in it guards itself.
    folder.mkdir(mode=0o711, parents=True, exist_ok=True)
    console = Console(stderr=True, highlight=False)
    console.print(f"Starting PostgreSQL in {folder / 'postgres'} …")
    # Not from the environment nor .env: the demo must never write to somebody's real database.
    own = StorageSettings.model_construct(database_url=None, database_url_file=None, data_dir=folder)
    with location.found(own) as database:
        began = datetime.now(UTC)
        asyncio.run(_listen(database, folder, seconds, console))
        _conclude(*asyncio.run(_results(database, began)), folder, as_json=as_json)


async def _listen(database: location.Location, folder: Path, seconds: float, console: Console) -> None:
    from soulseek_research.simulation.network import SimulatedNetwork  # noqa: PLC0415 - other commands need no aioslsk

    await database.prepare()
    regions = {f"listener-{region}": branch for branch, region in enumerate(REGIONS)}
    stopped = asyncio.Event()
    with _on_signals(stopped):
        async with SimulatedNetwork(
            seed=int(time.time()),
            rate=RATE,
            speed=SPEED,
            overlap=OVERLAP,
            delay_seconds=DELAY_SECONDS,
            hit_share=HIT_SHARE,
            regions=regions,
        ) as network:
            host, port = network.server_address
            console.print(f"A simulated Soulseek network of {network.people:,} people is on {host}:{port}.")
            async with _collectors(database, folder, f"{host}:{port}") as collectors:
                console.print(f"Two collectors listen, {' and '.join(REGIONS)}, for {seconds:.0f} s (Ctrl-C ends it).")
                await _watch(database, console, seconds, stopped, collectors)
                console.print("Stopping: the collectors flush …")


@contextlib.contextmanager
def _on_signals(stopped: asyncio.Event) -> Any:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


@contextlib.asynccontextmanager
async def _collectors(
    database: location.Location, folder: Path, server: str
) -> AsyncIterator[list[asyncio.subprocess.Process]]:
    """The collectors, as anybody would start them; stopped as Ctrl-C stops them."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SOULSEEK_RESEARCH_")}
    processes = []
    try:
        for region in REGIONS:
            environment = inherited | {
                "SOULSEEK_RESEARCH_USERNAME": f"listener-{region}",
                "SOULSEEK_RESEARCH_PASSWORD": "any will do",
                "SOULSEEK_RESEARCH_DATABASE_URL": database.dsn,
                "SOULSEEK_RESEARCH_DATA_DIR": str(folder),
                "SOULSEEK_RESEARCH_LOG_LEVEL": "WARNING",
            }
            command = [sys.executable, "-m", "flows.cli", "start", "--client-id", region, "--server", server]
            # In a group of their own, so that Ctrl-C reaches the demo alone, which stops them in order.
            processes.append(
                await asyncio.create_subprocess_exec(*command, env=environment, cwd=folder, start_new_session=True)
            )
        yield processes
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        for process in processes:
            try:
                async with asyncio.timeout(STOP_SECONDS):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()


async def _watch(
    database: location.Location,
    console: Console,
    seconds: float,
    stopped: asyncio.Event,
    collectors: list[asyncio.subprocess.Process],
) -> None:
    ends, reported = time.monotonic() + seconds, seconds
    async with database.session(Role.ANALYST) as connection:
        with Live(console=console, refresh_per_second=4, transient=True) as live:
            while (left := ends - time.monotonic()) > 0 and not stopped.is_set():
                if any(one.returncode is not None for one in collectors):
                    raise click.ClickException("a collector ended early; what it said stands above")
                rows = [_progress(one) for one in await overview.overview(connection)]
                if rows and console.is_terminal:
                    live.update(tables.table(rows, title=f"{left:.0f} s to go"))
                elif rows and left < reported - REPORT_SECONDS:
                    reported = left
                    kept = ", ".join(f"{row['region']} {row['searches in the last minute']:,}" for row in rows)
                    console.print(f"{left:.0f} s to go; searches in the last minute: {kept}")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(1.0, left)):
                        await stopped.wait()


def _progress(one: overview.CollectorOverview) -> dict[str, Any]:
    return {
        "region": one.client_id,
        "state": one.status.get("state", "starting"),
        "role": one.stretch and one.stretch.role,
        "searches in the last minute": one.kept_minute,
        "in the spool": one.status.get("spool", {}).get("searches", 0),
        "last batch": one.last_batch_at,
    }


async def _results(database: location.Location, began: datetime) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    async with database.session(Role.ANALYST) as connection:
        heard = await connection.fetch(queries.load("heard_since"), began)
        wanted = await connection.fetch(queries.load("most_wanted"), began, 10)
    return [dict(row) for row in heard], [dict(row) for row in wanted]


def _conclude(heard: list[dict[str, Any]], wanted: list[dict[str, Any]], folder: Path, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"heard": heard, "wanted": wanted}, ensure_ascii=False, indent=2))
        return
    tables.show(heard, title="What was heard and kept")
    tables.show(wanted, title="\nWhat most people wanted")
    command = os.path.relpath(sys.argv[0]) if sys.argv[0].endswith("soulseek-research") else "soulseek-research"
    click.echo(
        "\nTo look further:\n"
        f"  {command} psql --data-dir {folder}\n"
        f"  {command} status --data-dir {folder}\n"
        f"To hear the real network:\n  {command} start --username U --password-file F"
    )
