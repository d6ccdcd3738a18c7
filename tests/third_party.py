"""A Soulseek network that nobody here wrote: another server, other clients, and between them and us a tap.

None of it is ours to keep, so it is brought by a kit beside the checkout, in the folder that the environment variable
`SOULSEEK_RESEARCH_PROOF_KIT` names. Its programs listen on 127.0.0.1 and end at SIGTERM:

| program | what it does |
|---|---|
| `start_server.sh PORT DATABASE` | a server that sends every search to everybody, as a `FileSearch` |
| `mock_server.py --port P --strategy S --parents-every SECONDS` | a server with a distributed network |
| `nicotine.py --server A --prefix P -n 1 --queries F --rate R --run D` | a client, account P0, which sends the feed F |
| `tap.py --listen A --server A --out F [--rewrite-parents]` | writes down what was forwarded: `tests/forwarded.py` |
| `slskraw.py A kick ACCOUNT PASSWORD`, `slskraw.py A starve ACCOUNT` | a second login of an account |
| `listen.py --server A --user U --out F` | aioslsk as it comes, which writes down what it hears: `user`, `ticket` ... |
| `make_hostile.py F` | a feed of hostile queries |

A feed is a JSON object a line: `{"q": QUERY}`, also with a `mode` (`global`, `direct`, `bytes` with `hex`, `wish`,
`tick`, `user` with `to`). The client keeps the feed open in D/P0/feed.jsonl and writes to D/P0/sent.jsonl what it
sends: `t` (Unix seconds), `code`, `ticket`, `query_hex` and `line`, the number of the line of the feed; and as an
`event` that it has `stopped`.
"""

import contextlib
import itertools
import json
import math
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.ports import free_port
from tests.program import Program, until

VARIABLE = "SOULSEEK_RESEARCH_PROOF_KIT"
KIT = Path(os.environ.get(VARIABLE) or os.devnull)

Feed = Iterable[dict[str, Any]]


class Searcher(Program):
    """A Nicotine+ client that sends its feed."""

    def __init__(self, server: str, prefix: str, feed: Feed, folder: Path, *, rate: float) -> None:
        self.name = f"{prefix}0"
        self._folder = folder / self.name
        queries = folder / f"{prefix}.jsonl"
        self._fed = _write(queries, feed)
        super().__init__(
            [
                KIT / "nicotine.py", "--server", server, "--prefix", prefix, "-n", "1",
                "--rate", str(rate), "--queries", queries, "--run", folder,
            ],
            folder / f"{prefix}.log",
        )  # fmt: skip

    def sent(self) -> list[dict[str, Any]]:
        """Each search that it has sent."""
        return [one for one in self._notes() if "code" in one]

    def stopped_at(self) -> float:
        """When it quit (Unix seconds); infinity while it runs."""
        return next((float(one["t"]) for one in self._notes() if one.get("event") == "stopped"), math.inf)

    def feed(self, *lines: dict[str, Any]) -> None:
        """More to send."""
        self._fed += _write(self._folder / "feed.jsonl", lines)

    def has_sent_all(self) -> None:
        """Waits until nothing of its feed is left."""
        until(lambda: max((one["line"] for one in self.sent()), default=0) >= self._fed, f"{self.name} sends all", 90)

    def _notes(self) -> list[dict[str, Any]]:
        with contextlib.suppress(FileNotFoundError), (self._folder / "sent.jsonl").open() as notes:
            return [json.loads(line) for line in notes if line.endswith("\n")]
        return []


class Network:
    """One server, its clients and the tap; all of them end with it.

    Attributes:
        record: where the tap writes.
        address: of the tap, which a collector takes for the server.
    """

    def __init__(self, folder: Path) -> None:
        self.record = folder / "tap.jsonl"
        self.address = ""
        self._folder = folder
        self._running = contextlib.ExitStack()
        self._port = free_port()
        self._server = f"127.0.0.1:{self._port}"
        self._numbers = itertools.count()

    def start_soulfind(self) -> Program:
        """A server that sends every search to everybody."""
        return self._run("server", KIT / "start_server.sh", str(self._port), self._folder / "soulfind.db")

    def start_mock(self, strategy: str) -> Program:
        """A server with a distributed network; the strategy says who is whose parent."""
        options = "--port", str(self._port), "--strategy", strategy, "--parents-every", "1"
        return self._run("server", KIT / "mock_server.py", *options)

    def start_tap(self) -> Program:
        """Stands at `address` between a collector and the server, and between it and each parent that it is offered."""
        self.address = f"127.0.0.1:{free_port()}"
        options = "--listen", self.address, "--server", self._server, "--out", self.record, "--rewrite-parents"
        tap = self._run("tap", KIT / "tap.py", *options)
        tap.says("tap ")
        return tap

    def start_searcher(self, prefix: str, feed: Feed, *, rate: float) -> Searcher:
        """A client, which sends so many searches a second."""
        return self._running.enter_context(Searcher(self._server, prefix, feed, self._folder, rate=rate))

    def start_listener(self, username: str) -> Path:
        """A client that only listens; returns the file that it writes to."""
        heard = self._folder / f"{username}.jsonl"
        heard.touch()
        self._run("listener", KIT / "listen.py", "--server", self._server, "--user", username, "--out", heard)
        return heard

    def fault(self, word: str) -> None:
        """What the tap is to do to its connections: `fin`, `rst`, `stall` (they stand, nothing passes), `go`."""
        with Path(f"{self.record}.ctl").open("w") as control:
            control.write(word + "\n")

    def log_in_elsewhere(self, *what: str) -> None:
        """A second login of an account: `kick` ACCOUNT PASSWORD, or `starve` ACCOUNT."""
        command, *rest = what
        subprocess.run(
            [KIT / "slskraw.py", self._server, command, *rest], check=True, timeout=30, stdout=subprocess.DEVNULL
        )

    def hostile_feed(self) -> list[dict[str, Any]]:
        """Queries that break what can be broken."""
        feed = self._folder / "hostile.jsonl"
        subprocess.run([KIT / "make_hostile.py", feed], check=True, timeout=30)
        return [json.loads(line) for line in feed.read_text().splitlines()]

    def close(self) -> None:
        """Ends all of its programs."""
        self._running.close()

    def _run(self, name: str, *command: str | Path) -> Program:
        log = self._folder / f"{name}-{next(self._numbers)}.log"
        return self._running.enter_context(Program(command, log))


def _write(feed: Path, lines: Feed) -> int:
    texts = [json.dumps(line) + "\n" for line in lines]
    with feed.open("a") as file:
        file.writelines(texts)
    return len(texts)
