"""A PostgreSQL of another major version than the one that we bring, where the machine has one installed."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

INSTALLED = sorted(Path("/usr/lib/postgresql").glob("1[4567]/bin"))
START_SECONDS = 30.0


@contextlib.contextmanager
def server(programs: Path) -> Iterator[str]:
    """Run a fresh cluster in a temporary folder, reachable by its socket only; yields the DSN of its superuser."""
    folder = Path(tempfile.mkdtemp(prefix="sr-"))
    account: dict[str, Any] = {}
    if os.geteuid() == 0:  # PostgreSQL refuses root
        account = {"user": "nobody", "group": "nogroup", "extra_groups": []}
        shutil.chown(folder, "nobody")
    data = folder / "data"
    initdb = [programs / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
    settings = ["-c", "listen_addresses=", "-c", f"unix_socket_directories={folder}"]
    try:
        subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, cwd="/", **account)
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen([programs / "postgres", "-D", data, *settings], stderr=log, cwd="/", **account)
        try:
            _wait(programs, folder)
            yield f"postgresql://postgres@/postgres?host={folder}"
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()
    finally:
        shutil.rmtree(folder)


def _wait(programs: Path, sockets: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while subprocess.run([programs / "pg_isready", "-q", "-h", sockets], check=False).returncode:
        assert time.monotonic() < deadline, (sockets / "log").read_text()
        time.sleep(0.05)
