"""The command line as people use it: a process, what it says, and how it ends."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

SECRET = "correct-horse-battery-staple"
NOWHERE = f"postgresql://u:{SECRET}@127.0.0.1:1/nowhere"
COMMAND = [sys.executable, "-m", "flows.cli"]


@dataclasses.dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    said: str
    complained: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.complained
        return json.loads(self.said)


def run(folder: Path, *arguments: str, stdin: str = "", **environment: str) -> Done:
    """Run a command in a folder, which is its home too."""
    done = subprocess.run(
        [*COMMAND, *arguments], cwd=folder, env=surroundings(folder) | environment,
        input=stdin, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return Done(done.returncode, done.stdout, done.stderr)


def surroundings(folder: Path) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SOULSEEK_RESEARCH_")}
    return inherited | {"HOME": str(folder), "XDG_DATA_HOME": str(folder / "data")}


def assert_refused(done: Done, words: str) -> None:
    """It says in one line what is wrong, and repeats no secret."""
    assert done.code in (1, 2)
    assert done.complained.startswith("soulseek-research: ")
    assert done.complained.count("\n") == 1
    assert words in done.complained
    assert done.said == ""
    assert SECRET not in done.complained
