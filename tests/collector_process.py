"""A collector as its users run it: the command, in a process of its own."""

import os
import sys
from pathlib import Path

from tests.program import Program

PASSWORD = "not a secret"
CLIENT_ID = "proof"


class Collector(Program):
    """`soulseek-research start` with the embedded database, everything it writes under one folder, logs at DEBUG."""

    def __init__(self, username: str, server: str, folder: Path, *options: str) -> None:
        home = folder / "home"
        home.mkdir(exist_ok=True)
        super().__init__(
            [
                sys.executable, "-m", "flows.cli", "start", "--username", username, "--client-id", CLIENT_ID,
                "--server", server, "--data-dir", data_dir(folder), "--log-level", "DEBUG", *options,
            ],
            folder / "collector.log",
            cwd=home,
            env={"PATH": os.environ["PATH"], "HOME": str(home), "SOULSEEK_RESEARCH_PASSWORD": PASSWORD},
        )  # fmt: skip


def data_dir(folder: Path) -> Path:
    """Where it keeps what it hears."""
    return folder / "data"
