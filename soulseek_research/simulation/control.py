"""Faults on command: a line in, a line of JSON out, over a unix socket or standard input."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import faults, lines, sockets
from .network import SimulatedNetwork
from .strangers import Stranger

REPORT_SECONDS = 10.0
# A network that runs for days keeps only this much of its manifest in memory.
KEEP_MANIFEST = 10_000

HELP = {
    "status": "who is logged in and what was sent",
    "faults": "the faults, their options and what they do",
    "fault NAME [OPTION=VALUE ...]": "let something go wrong",
    "send USERNAME TICKET QUERY [via=WAY] [branch=N]": "send one search, quoted as in a shell",
    "quit": "end the network",
}


class Control:
    """Does what a line says.

    Args:
        network: the network that obeys.
    """

    def __init__(self, network: SimulatedNetwork) -> None:
        self._network = network
        self.quit = asyncio.Event()

    async def obey(self, line: str) -> dict[str, Any]:
        """Do it and answer; what cannot be done answers `error`."""
        try:
            return await self._obey(shlex.split(line))
        except (ValueError, TypeError, KeyError, OSError) as error:
            return {"error": f"{type(error).__name__}: {error}"}

    async def _obey(self, words: list[str]) -> dict[str, Any]:
        answer: dict[str, Any] = dict(HELP)
        match words:
            case ["status"]:
                answer = self._network.status()
            case ["faults"]:
                answer = dict(faults.describe())
            case ["fault", name, *rest]:
                answer = {"done": _plain(await self._network.fault(name, **_options(rest)))}
            case ["send", username, ticket, query, *rest]:
                sent = await self._network.send((username, int(ticket), query), **_options(rest))
                answer = {"heard_by": sorted({name for one in sent.deliveries for name in one.heard_by})}
            case ["quit"]:
                self.quit.set()
                answer = {"done": True}
        return answer

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Obey each line of a connection."""
        while line := await reader.readline():
            answer = await self.obey(line.decode(errors="replace"))
            writer.write(json.dumps(answer, ensure_ascii=False).encode() + b"\n")
            await writer.drain()


def _options(words: list[str]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"{word!r} is not OPTION=VALUE")
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    return options


def _plain(result: Any) -> Any:
    if isinstance(result, list):
        return [_plain(one) for one in result]
    if isinstance(result, Stranger):
        return result.username
    return True if result is None else str(result)


async def run(
    *,
    control_path: Path | None = None,
    use_stdin: bool = False,
    report: Callable[[str], None] = print,
    report_seconds: float = REPORT_SECONDS,
    seconds: float | None = None,
    **options: Any,
) -> None:
    """Run a network until it is told to quit, or cancelled, or so many seconds have passed.

    Args:
        control_path: take commands on a unix socket here, for the owner only.
        use_stdin: take commands from standard input too.
        report: is given a line for people at the start and every `report_seconds`.
        report_seconds: how often.
        seconds: how long to run; for ever by default.
        options: those of `SimulatedNetwork`.

    Raises:
        OSError: a port or the socket's path is taken.
    """
    options.setdefault("keep_manifest", KEEP_MANIFEST)
    async with SimulatedNetwork(**options) as network, contextlib.AsyncExitStack() as stack:
        control = Control(network)
        if control_path is not None:
            await stack.enter_async_context(_unix_socket(control, control_path))
        if use_stdin:
            stack.push_async_callback(_cancel, asyncio.create_task(_obey_stdin(control), name="commands"))
        report("The simulated network listens on {}:{}.".format(*network.server_address))
        stack.push_async_callback(_cancel, asyncio.create_task(_report(network, report, report_seconds), name="report"))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await control.quit.wait()


@contextlib.asynccontextmanager
async def _unix_socket(control: Control, path: Path) -> Any:
    serving: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        try:
            with contextlib.suppress(ConnectionError, ValueError, asyncio.CancelledError):
                await control.serve(reader, writer)
        finally:
            serving.discard(task)
            await sockets.close(writer)

    mask = os.umask(0o077)
    try:
        server = await asyncio.start_unix_server(accept, path)
    finally:
        os.umask(mask)
    try:
        yield server
    finally:
        server.close()
        tasks = list(serving)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        path.unlink(missing_ok=True)  # noqa: ASYNC240 - one directory entry


async def _obey_stdin(control: Control) -> None:
    async for line in lines.read():
        lines.say(await control.obey(line))


async def _report(network: SimulatedNetwork, report: Callable[[str], None], seconds: float) -> None:
    before = network.sent.searches
    while True:
        await asyncio.sleep(seconds)
        now = network.sent.searches
        names = ", ".join(sorted(one.username for one in network.accounts())) or "nobody"
        report(f"{now} searches so far, {(now - before) / seconds:.1f} a second; {names} logged in.")
        before = now


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
