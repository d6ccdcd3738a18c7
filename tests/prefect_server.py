"""A real Prefect server with its workers and the runs that they start, all of which end with the test."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import httpx

from tests.ports import free_port
from tests.program import Program, until

Environment = dict[str, str]

CHECKOUT = Path(__file__).parents[1]
# Starting takes a second or two of all that the machine has, and the suite may not be alone on it.
START_SECONDS = 120.0
WORKER: Environment = {
    # Runs are taken sooner than within ten seconds.
    "PREFECT_WORKER_QUERY_SECONDS": "1",
    # As much is said as can be, and sent to the server.
    "PREFECT_LOGGING_COLORS": "false",
    "PREFECT_LOGGING_LEVEL": "DEBUG",
    "PREFECT_LOGGING_ROOT_LEVEL": "DEBUG",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "aioslsk",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
}


class PrefectServer:
    """A server with a home of its own, and whatever knows of that home: its command line, its workers, their runs.

    Args:
        folder: everything is written below it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"http://127.0.0.1:{free_port()}/api"
        (folder / "tmp").mkdir()
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "SOULSEEK_RESEARCH_"))
        }
        self._environment: Environment = inherited | {
            "HOME": str(folder),
            "TMPDIR": str(folder / "tmp"),
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_API_URL": self.url,
            # Nothing leaves this machine, and nobody starts a server of their own where ours is away.
            "DO_NOT_TRACK": "1",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_UI_ENABLED": "false",
            "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
        }
        self._client = httpx.Client(base_url=self.url, timeout=30)
        self._programs: list[Program] = []

    def __enter__(self) -> Self:
        port = str(httpx.URL(self.url).port)
        self._start("server", {}, "server", "start", "--host", "127.0.0.1", "--port", port)
        try:
            until(self._is_healthy, "Prefect's server is up", START_SECONDS)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
        # A run is in a group of its own, which may outlive its worker.
        until(self._everything_has_ended, "all that Prefect started is gone")
        for program in self._programs:
            program.kill()

    def call(self, *arguments: str, cwd: Path, environment: Environment) -> tuple[str, str]:
        """Run Python as a user of this server, and return what it says on stdout and stderr; it has to succeed."""
        done = subprocess.run(
            [sys.executable, *arguments], cwd=cwd, env=self._environment | environment,
            capture_output=True, text=True, timeout=START_SECONDS, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout, done.stderr

    def deploy(self) -> list[dict[str, Any]]:
        """Deploy everything that stands in the checkout's prefect.yaml, and return what there is now."""
        for pool in ("eu", "us", "archive"):
            if not self.post("work_pools/filter", work_pools={"name": {"any_": [pool]}}):
                self.post("work_pools/", name=pool, type="process")
        self.call("-m", "prefect", "--no-prompt", "deploy", "--all", cwd=CHECKOUT, environment={})
        deployments: list[dict[str, Any]] = self.post("deployments/filter")
        return deployments

    def start_worker(self, pool: str, environment: Environment) -> Program:
        """Start a worker in a folder that has nothing of ours; it ends with the server."""
        worker = self._start("worker", WORKER | environment, "worker", "start", "--pool", pool, "--type", "process")
        worker.says("started!", seconds=START_SECONDS)
        return worker

    def halt(self) -> None:
        """Let the server take connections and answer nobody."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it answer again."""
        self._signal(signal.SIGCONT)

    def get(self, path: str) -> Any:
        """Ask the API."""
        return self._ask("GET", path)

    def post(self, path: str, **body: Any) -> Any:
        """Ask the API, or tell it something."""
        return self._ask("POST", path, json=body)

    def start_run(self, deployment: str, **parameters: Any) -> str:
        """Start a run of a deployment, now, and return its id."""
        found = self.get(f"deployments/name/{deployment}")
        return str(self.post(f"deployments/{found['id']}/create_flow_run", parameters=parameters)["id"])

    def all_of(self, what: str) -> Iterator[dict[str, Any]]:
        """Everything that the API tells of `flow_runs`, `artifacts`, `logs` ..."""
        offset = 0
        while page := self.post(f"{what}/filter", limit=100, offset=offset):
            yield from page
            offset += len(page)

    def told(self) -> Iterator[Any]:
        """Everything that the API tells anybody who asks."""
        for what in ("flow_runs", "task_runs", "deployments", "artifacts", "logs"):
            yield from self.all_of(what)
        events = self.post("events/filter")
        yield events
        while events["next_page"]:
            events = self.get(events["next_page"])
            yield events

    def state(self, run: str) -> dict[str, Any]:
        """The state of a run: `type`, `name`, `message`."""
        state: dict[str, Any] = self.get(f"flow_runs/{run}")["state"]
        return state

    def ended(self, run: str, seconds: float = START_SECONDS) -> dict[str, Any]:
        """Wait until a run has ended, by Prefect's lights, and return its state."""
        return until(lambda: self._final_state(run), f"run {run} ends", seconds) or {}

    def cancel(self, run: str) -> None:
        """Cancel a run as the UI does."""
        self.post(f"flow_runs/{run}/set_state", state={"type": "CANCELLING", "name": "Cancelling"})

    def suspend(self, run: str) -> None:
        """Suspend a run as the UI does."""
        self.post(f"flow_runs/{run}/set_state", state={"type": "PAUSED", "name": "Suspended"})

    def _final_state(self, run: str) -> dict[str, Any] | None:
        time.sleep(0.3)  # it has something else to do than to answer us
        state = self.state(run)
        return state if state["type"] in ("COMPLETED", "CANCELLED", "FAILED", "CRASHED") else None

    def _ask(self, method: str, path: str, **content: Any) -> Any:
        def answer() -> httpx.Response | None:
            given = self._client.request(method, path, **content)
            # Its SQLite is busy, which Prefect's own client takes as calmly.
            return None if given.status_code == httpx.codes.SERVICE_UNAVAILABLE else given

        given = until(answer, f"an answer to {path}")
        assert given is not None
        return given.raise_for_status().json()

    def _start(self, name: str, environment: Environment, *arguments: str) -> Program:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        program = Program(
            [sys.executable, "-m", "prefect", "--no-prompt", *arguments],
            self.folder / f"{name}.log",
            cwd=folder,
            env=self._environment | environment,
            start_new_session=True,
        )
        self._programs.append(program)
        return program

    def _signal(self, number: signal.Signals) -> None:
        os.kill(self._programs[0]._process.pid, number)

    def _is_healthy(self) -> bool:
        assert not self._programs[0].ended, self._programs[0].said()
        try:
            return self._client.get("health").is_success
        except httpx.HTTPError:
            return False

    def _everything_has_ended(self) -> bool:
        processes = processes_with("PREFECT_HOME", self._environment["PREFECT_HOME"])
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                group = os.getpgid(process)
                assert group != os.getpgrp()
                os.killpg(group, signal.SIGKILL)
        return not processes


def processes_of(run: str) -> list[int]:
    """The processes of a flow run."""
    return processes_with("PREFECT__FLOW_RUN_ID", run)


def processes_with(name: str, value: str) -> list[int]:
    """The processes that have such a variable in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{name}={value}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:  # it has ended, or is not ours to read
            continue
    return found
