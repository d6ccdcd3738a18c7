"""A real Prefect server with its workers and the runs that they start, all of which end with the test."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

import httpx

from tests.ports import free_port
from tests.program import Program, until

CHECKOUT = Path(__file__).parents[1]
WORKER = {
    # Runs are taken sooner than within ten seconds.
    "PREFECT_WORKER_QUERY_SECONDS": "1",
    # As much is said as can be, and sent to the server.
    "PREFECT_LOGGING_LEVEL": "DEBUG",
    "PREFECT_LOGGING_ROOT_LEVEL": "DEBUG",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "collectors,soulseek_research,aioslsk,asyncio,asyncpg",
}


class PrefectServer:
    """A server with a home of its own, which is all that its command line and its workers know of.

    Args:
        folder: everything is written below it; others may enter.
        environment: further settings for all processes.
    """

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        self.home = folder / "prefect"
        self.url = f"http://127.0.0.1:{free_port()}/api"
        (folder / "tmp").mkdir()
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "TMPDIR": str(folder / "tmp"),
            "PREFECT_HOME": str(self.home),
            "PREFECT_API_URL": self.url,
            # Nothing leaves this machine, and nobody starts a server of their own where ours is away.
            "DO_NOT_TRACK": "1",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
            "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
            "PREFECT_SERVER_UI_ENABLED": "false",
            **environment,
        }
        self._client = httpx.Client(timeout=10)
        self.process: Program | None = None

    def __enter__(self) -> Self:
        self.process = self._start("server", "server", "start", "--host", "127.0.0.1", "--port", self._port)
        try:
            until(self._is_healthy, "Prefect's server is up", 120)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
        # A run is in a group of its own, which outlives its worker; all of them know our home.
        for group in {os.getpgid(pid) for pid in processes_with(f"PREFECT_HOME={self.home}")}:
            assert group != os.getpgrp()
            os.killpg(group, signal.SIGKILL)
        until(lambda: not processes_with(f"PREFECT_HOME={self.home}"), "all that Prefect started is gone")

    @property
    def _port(self) -> str:
        return str(httpx.URL(self.url).port)

    def run_command(self, *arguments: str) -> str:
        """Run `prefect` in the checkout and return what it says; it has to succeed."""
        done = subprocess.run(
            [sys.executable, "-m", "prefect", *arguments],
            cwd=CHECKOUT, env=self._environment, capture_output=True, text=True, timeout=90, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start_worker(self, pool: str, **environment: str) -> Program:
        """Start a worker in a folder that has nothing of ours; it ends with the server."""
        worker = self._start(
            f"worker-{pool}", "worker", "start", "--pool", pool, "--type", "process", **WORKER, **environment
        )
        worker.says("started!", seconds=60)
        return worker

    def post(self, path: str, **body: Any) -> Any:
        """Ask the API."""
        answer = self._client.post(f"{self.url}/{path}", json=body)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def start_run(self, deployment: str, **body: Any) -> str:
        """Start a run of a deployment, now, and return its id."""
        found = self._client.get(f"{self.url}/deployments/name/{deployment}").raise_for_status().json()
        return str(self.post(f"deployments/{found['id']}/create_flow_run", **body)["id"])

    def run(self, run_id: str) -> dict[str, Any]:
        """What the API says of a run."""
        answer: dict[str, Any] = self._client.get(f"{self.url}/flow_runs/{run_id}").raise_for_status().json()
        return answer

    def cancel(self, run_id: str) -> None:
        """Cancel a run as the UI does."""
        self.post(f"flow_runs/{run_id}/set_state", state={"type": "CANCELLING", "name": "Cancelling"})

    def is_final(self, run_id: str) -> bool:
        """Whether a run has ended, by Prefect's lights."""
        return self.run(run_id)["state_type"] in ("COMPLETED", "CANCELLED", "FAILED", "CRASHED")

    def _start(self, name: str, *arguments: str, **environment: str) -> Program:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        return Program(
            [sys.executable, "-m", "prefect", "--no-prompt", *arguments],
            self.folder / f"{name}.log",
            cwd=folder,
            env=self._environment | environment,
            start_new_session=True,
        )

    def _is_healthy(self) -> bool:
        assert self.process is not None
        assert not self.process.ended, self.process.said()
        try:
            return self._client.get(f"{self.url}/health").is_success
        except httpx.HTTPError:
            return False


def processes_with(variable: str) -> list[int]:
    """The processes that have this `NAME=value` in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if variable.encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:  # it has ended, or is not ours to read
            continue
    return found
