"""What goes wrong on command: each fault is a function that takes the network and its options.

What a fault sends to be believed (a duplicate, a long query) is in the manifest `sent`; what nobody should believe is
in `injected`.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import random
import struct
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from . import frames, hostile, sockets
from .frames import messages
from .manifest import Delivery, Sent
from .strangers import Stranger

if TYPE_CHECKING:
    from .network import SimulatedNetwork
    from .server import Account

Fault = Callable[..., Awaitable[Any]]

# Enough for a client to be allowed a couple of hundred children.
CHILDREN_SPEED = 1 << 20
HUGE_FRAME_BYTES = 300 << 20
HUGE_QUERY_BYTES = 8 << 20
UNKNOWN_SERVER_CODE, UNKNOWN_DISTRIBUTED_CODE = 9999, 77


# The server


async def fin(network: SimulatedNetwork, username: str | None = None) -> None:
    """The server closes the connection of one account, or of all."""
    for account in network.accounts(username):
        sockets.end(account.writer)


async def rst(network: SimulatedNetwork, username: str | None = None) -> None:
    """The server resets the connection of one account, or of all."""
    for account in network.accounts(username):
        sockets.end(account.writer, reset=True)


async def kick(network: SimulatedNetwork, username: str | None = None) -> None:
    """The server says that the account is in use elsewhere, and closes."""
    for account in network.accounts(username):
        network.server.kick(account)


async def restart(network: SimulatedNetwork, *, seconds: float = 1.0, reset: bool = False) -> None:
    """The server is down for so long and comes back on the same port. The parents live on, as real ones do."""
    await network.server.stop(reset=reset)
    await asyncio.sleep(seconds)
    await network.server.listener.start()


async def refuse_login(network: SimulatedNetwork, reason: str = "INVALIDPASS", *, on: bool = True) -> None:
    """Each login from now on is refused."""
    network.server.refuse_reason = reason if on else None


async def mute_login(network: SimulatedNetwork, *, on: bool = True) -> None:
    """Each login from now on is never answered."""
    network.server.mute_logins = on


# Silence


async def silence(network: SimulatedNetwork, username: str | None = None, *, on: bool = True) -> None:
    """All connections stand, and no search comes: to one account, or to all."""
    if username is None:
        network.silent = on
    elif on:
        network.deaf.add(username)
    else:
        network.deaf.discard(username)


async def restore(network: SimulatedNetwork) -> None:
    """End whatever lasts: silence, refused and unanswered logins, parents that are gone or not offered."""
    network.silent = False
    network.deaf.clear()
    network.server.refuse_reason = None
    network.server.mute_logins = False
    for branch in network.branches:
        await branch.start()
    await no_parents(network, on=False)


# The place in the tree


async def lose_parent(
    network: SimulatedNetwork, branch: int | None = None, *, reset: bool = False, stay: bool = True
) -> None:
    """Every parent (of one branch) closes the connections to its children, by FIN or RST; or goes for good."""
    for one in network.branches:
        if branch in (None, one.number):
            for parent in one.parents:
                if stay:
                    parent.lose(reset=reset)
                else:
                    await parent.listener.stop(reset=reset)


async def no_parents(network: SimulatedNetwork, *, on: bool = True) -> None:
    """Nobody has or is offered a parent: clients become branch roots, and the server sends them the searches."""
    network.offers_parents = not on
    if on:
        await lose_parent(network)
    for account in network.accounts():
        network.server.offer_parents(account)


async def move(network: SimulatedNetwork, username: str, branch: int) -> None:
    """An account loses its parent and is offered those of another branch."""
    before = network.branch_of(username)
    network.assign(username, branch)
    for parent in before.parents:
        parent.lose(username)


async def relevel(network: SimulatedNetwork, level: int, *, root: str | None = None, branch: int | None = None) -> None:
    """Every parent (of one branch) stands elsewhere in the tree from now on, and tells its children."""
    for one in network.branches:
        if branch in (None, one.number):
            for parent in one.parents:
                parent.level = level
                parent.root = root or parent.root
                for child in parent.children:
                    child.write(parent.greeting())


async def reset_distributed(network: SimulatedNetwork, username: str | None = None) -> None:
    """The server tells one account, or all, to let go of parent and children and begin anew."""
    for account in network.accounts(username):
        account.send(messages.ResetDistributed.Response())


# Frames


async def malformed(network: SimulatedNetwork, what: str = "all", via: str = "parent") -> None:
    """Frames that cannot be read.

    An `unknown` code, a `truncated` string, an `empty` frame, `trailing` bytes, an embedded message that is no search
    (`code`), or all of these; or `noise`, after which nothing is in step any more.
    """
    if what == "noise":
        network.write(random.Random(network.seed).randbytes(997), via)
        return
    chosen = malformed_frames(via)
    for frame in chosen.values() if what == "all" else [chosen[what]]:
        network.write(frame, via)


def malformed_frames(via: str = "parent") -> dict[str, bytes]:
    """The frames of the fault `malformed`, for what comes from the parent or from the server."""
    good = frames.PACKERS[via](b"malformed", 1, b"a search that is none")
    code = struct.pack("<B", UNKNOWN_DISTRIBUTED_CODE) if via == "parent" else struct.pack("<I", UNKNOWN_SERVER_CODE)
    embedded = bytearray(frames.embedded(b"malformed", 1, b"a search that is none"))
    embedded[8] = UNKNOWN_DISTRIBUTED_CODE
    return {
        "unknown": struct.pack("<I", len(code) + 5) + code + b"?????",
        # The frame is whole, but the query that it announces is longer than the frame.
        "truncated": struct.pack("<I", len(good) - 4 - 6) + good[4:-6],
        "empty": struct.pack("<I", 0),
        "trailing": struct.pack("<I", len(good) - 4 + 3) + good[4:] + b"\x00\x01\x02",
        "code": bytes(embedded),
    }


async def oversized(network: SimulatedNetwork, what: str = "64k", via: str = "parent") -> Sent | None:
    """A query of `64k` or `8m` bytes, or only the `header` of a frame of hundreds of MB, and a little of it."""
    if what == "header":
        network.write(struct.pack("<IB", HUGE_FRAME_BYTES, 3) + bytes(4096), via)
        return None
    size = {"64k": hostile.LONG_QUERY_BYTES, "8m": HUGE_QUERY_BYTES}[what]
    query = (b"long " * (size // 5 + 1))[:size]
    return await network.send(("windbag", network.ticket(), query), via=via)


async def duplicate(network: SimulatedNetwork, count: int = 1, via: str = "parent") -> list[Sent]:
    """The last searches once more, all their fields the same, by the same or by another way."""
    repeated = network.sent.last(count)
    for sent in repeated:
        network.carry(sent, via=via)
    return repeated


# Peers that come unasked


async def inject(
    network: SimulatedNetwork, username: str | None = None, *, count: int = 10, name: str = "stranger"
) -> list[Stranger]:
    """A stranger connects to each client, or to one, and sends searches. They are in `injected`."""
    strangers = []
    for account in network.accounts(username):
        stranger = await network.introduce(Stranger(name), account)
        _inject(network, stranger, account, count)
        strangers.append(stranger)
    return strangers


async def usurp(
    network: SimulatedNetwork, username: str | None = None, *, level: int = 1, count: int = 10, name: str = "usurper"
) -> list[Stranger]:
    """A stranger connects, claims a place in the tree as if it were a parent, and sends searches.

    While a client has no parent (`no-parents`), a careless one makes it its own.
    """
    strangers = []
    for account in network.accounts(username):
        stranger = await network.introduce(Stranger(name), account)
        stranger.announce(level, name if level == 0 else f"{name}-root")
        _inject(network, stranger, account, count)
        strangers.append(stranger)
    return strangers


def _inject(network: SimulatedNetwork, stranger: Stranger, account: Account, count: int) -> None:
    for _ in range(count):
        ticket = network.ticket()
        query = f"injected {ticket}".encode()
        sent = network.injected.add(stranger.username.encode(), ticket, query, "injected")
        heard_by = (account.username,) if stranger.write(sent.frame("parent")) else ()
        network.injected.deliver(sent, Delivery("stranger", None, time.time(), heard_by))


async def child(
    network: SimulatedNetwork,
    username: str | None = None,
    *,
    count: int = 1,
    reads: bool = True,
    records: bool = True,
) -> list[Stranger]:
    """Well-behaved children connect to each client, or to one, and keep what they hear (`Stranger.heard`).

    The clients are told first that they upload fast enough to have children.

    Raises:
        TimeoutError: a client does not accept children, or does not let them connect.
    """
    children = []
    network.server.upload_speed = max(network.server.upload_speed, CHILDREN_SPEED)
    for account in network.accounts(username):
        account.send(messages.GetUserStats.Response(account.username, network.server.stats()))
        await network.server.until(functools.partial(getattr, account, "accepts_children"))
        for _ in range(count):
            name = f"child{len(network.strangers)}"
            children.append(await network.introduce(Stranger(name, reads=reads, records=records), account))
    return children


async def slow_child(network: SimulatedNetwork, username: str | None = None, *, count: int = 1) -> list[Stranger]:
    """Children connect and never read a byte."""
    return await child(network, username, count=count, reads=False)


async def leave(network: SimulatedNetwork, *, reset: bool = False) -> None:
    """Every stranger and child goes, by FIN or RST."""
    for stranger in network.strangers:
        await stranger.close(reset=reset)
    network.strangers.clear()


_ALL: tuple[Fault, ...] = (
    fin, rst, kick, restart, refuse_login, mute_login, silence, restore, lose_parent, no_parents, move, relevel,
    reset_distributed, malformed,
    oversized, duplicate, inject, usurp, child, slow_child, leave,
)  # fmt: skip

FAULTS: dict[str, Fault] = {fault.__name__.replace("_", "-"): fault for fault in _ALL}


def describe() -> dict[str, str]:
    """Each fault's name with its options and what it does, for people."""
    described = {}
    for name, fault in FAULTS.items():
        options = list(inspect.signature(fault).parameters.values())[1:]
        usage = " ".join(f"[{option.name}={option.default}]" if option.default is not option.empty
                         else f"{option.name}=" for option in options)  # fmt: skip
        summary = " ".join((inspect.getdoc(fault) or "").partition("\n\n")[0].split())
        described[name] = f"{usage}  {summary}".strip()
    return described
