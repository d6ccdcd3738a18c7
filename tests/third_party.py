"""A Soulseek network that nobody here wrote: another server, other clients, and between them and us a tap.

None of it is ours to keep, so it is brought by a kit beside the checkout, in the folder that the environment variable
`SOULSEEK_RESEARCH_PROOF_KIT` names. Its programs listen on 127.0.0.1 and end at SIGTERM:

| program | what it does |
|---|---|
| `start_server.sh PORT DATABASE` | a server that sends every search to everybody, as a `FileSearch` |
| `mock_server.py --port P --strategy S --parents-every S` | a server with a distributed network |
| `nicotine.py --server A --prefix P -n 1 --queries F --rate R --run D` | a client, account P0, which sends the feed F |
| `tap.py --listen A --server A --out F [--rewrite-parents]` | writes down what was forwarded; see `tests/forwarded.py` |
| `slskraw.py A kick ACCOUNT PASSWORD`, `... starve ACCOUNT` | a second login of an account |
| `make_hostile.py F` | a feed of hostile queries |

A feed is a JSON object a line: `{"q": QUERY}`, or with a `mode` (`global`, `direct`, `bytes`, `wish`, `tick`, `user`).
"""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Self

from tests.ports import free_port

VARIABLE = "SOULSEEK_RESEARCH_PROOF_KIT"
KIT = Path(os.environ.get(VARIABLE) or "/nonexistent")

Feed = Iterable[dict[str, Any]]


def until(condition: Callable[[], Any], what: str, seconds: float = 30.0) -> Any:
    """Waits until a condition holds and returns its value; says what did not happen."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(0.05)
    return value


class Program:
    """A process, with all that it says in a file."""

    def __init__(self, command: list[str | Path], log: Path, **options: Any) -> None:
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [str(part) for part in command], stdin=subprocess.DEVNULL, stdout=output, stderr=output, **options
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def says(self, words: str, times: int = 1, seconds: float = 30.0) -> None:
        """Waits until it has said something, so many times in all."""
        until(
            lambda: self.said().count(words) >= times or self._still_there(), f"{words!r} in {self.log.name}", seconds
        )

    def stop(self, seconds: float = 30.0) -> int:
        """Ends it gently and returns its exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(seconds)

    def kill(self) -> float:
        """Ends it with SIGKILL and returns when (Unix seconds)."""
        moment = time.time()
        self._process.kill()
        self._process.wait()
        return moment

    def _still_there(self) -> bool:
        if self.ended:
            raise RuntimeError(f"it ended with {self._process.returncode}: {self.said()[-2000:]}")
        return False


class Searcher(Program):
    """A Nicotine+ client that sends its feed."""

    def __init__(self, server: str, prefix: str, feed: Feed, folder: Path, *, rate: float) -> None:
        self.name = f"{prefix}0"
        self._folder = folder / self.name
        queries = folder / f"{prefix}.jsonl"
        lines = [json.dumps(line) for line in feed]
        queries.write_text("".join(line + "\n" for line in lines))
        self._fed = len(lines)
        super().__init__(
            [KIT / "nicotine.py", "--server", server, "--prefix", prefix, "-n", "1", "--rate", str(rate),
             "--queries", queries, "--run", folder],
            folder / f"{prefix}.log",
        )  # fmt: skip

    def sent(self) -> list[dict[str, Any]]:
        """Each search it has sent: `t`, `user`, `code`, `ticket`, `query_hex`."""
        return [one for one in self._notes() if "code" in one]

    def connected(self, times: int = 1) -> None:
        until(lambda: sum(one.get("event") == "connected" for one in self._notes()) >= times, f"{self.name} connects")

    def feed(self, *lines: dict[str, Any]) -> None:
        """More to send."""
        self._fed += len(lines)
        with (self._folder / "feed.jsonl").open("a") as feed:
            feed.writelines(json.dumps(line) + "\n" for line in lines)

    def has_sent_all(self, seconds: float = 60.0) -> None:
        until(
            lambda: max((one["line"] for one in self.sent()), default=0) >= self._fed, f"{self.name} sends all", seconds
        )

    def _notes(self) -> list[dict[str, Any]]:
        with contextlib.suppress(FileNotFoundError):
            return [
                json.loads(line)
                for line in (self._folder / "sent.jsonl").read_text().splitlines(keepends=True)
                if line.endswith("\n")
            ]
        return []


class Network:
    """One server, its clients and the tap; all end with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.record = folder / "tap.jsonl"
        self._running = contextlib.ExitStack()
        self._port = free_port()
        self.server_address = f"127.0.0.1:{self._port}"
        self.address = ""

    def start_soulfind(self) -> Program:
        database = self.folder / "soulfind.db"
        return self._run("server", [KIT / "start_server.sh", str(self._port), database])

    def start_mock(self, strategy: str) -> Program:
        return self._run(
            "server",
            [KIT / "mock_server.py", "--port", str(self._port), "--strategy", strategy, "--parents-every", "1"],
        )

    def start_tap(self, *, parents: bool = False) -> Program:
        """Lets a collector in at `address`, its parents too if told so."""
        self.address = f"127.0.0.1:{free_port()}"
        more = ["--rewrite-parents"] if parents else []
        return self._run(
            "tap",
            [KIT / "tap.py", "--listen", self.address, "--server", self.server_address, "--out", self.record, *more],
        )

    def start_searcher(self, prefix: str, feed: Feed, *, rate: float) -> Searcher:
        return self._running.enter_context(Searcher(self.server_address, prefix, feed, self.folder, rate=rate))

    def fault(self, word: str) -> None:
        """Tells the tap to do something to its connections."""
        with Path(f"{self.record}.ctl").open("w") as control:
            control.write(word + "\n")

    def log_in_elsewhere(self, *arguments: str) -> None:
        """A second login of an account: `kick` ACCOUNT PASSWORD, or `starve` ACCOUNT."""
        what, *rest = arguments
        subprocess.run(
            [KIT / "slskraw.py", self.server_address, what, *rest], check=True, timeout=30, capture_output=True
        )

    def close(self) -> None:
        self._running.close()

    def _run(self, name: str, command: list[str | Path]) -> Program:
        return self._running.enter_context(Program(command, self.folder / f"{name}.log"))
