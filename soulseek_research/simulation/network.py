"""The simulated network: a server, its branches, the people and the faults, put together."""

from __future__ import annotations

import asyncio
import functools
import itertools
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from . import faults, frames, searchers, sockets
from .branch import Branch, Parent
from .manifest import DEFAULT_KEEP, Delivery, Manifest, Sent
from .playing import Player
from .searchers import Search
from .server import Account, Server
from .strangers import Stranger

# How many people there are when searches go as fast as the connections take them.
DEFAULT_PEOPLE = 30_000
# Tickets of what is sent by hand, out of the way of the people's own.
FIRST_TICKET = 4_000_000_000

Text = str | bytes
Triple = tuple[Text, int, Text]


class SimulatedNetwork:
    """A Soulseek server and its tree on one host, an async context manager.

    Args:
        seed: the same seed gives the same searches in the same order.
        rate: searches a second over the whole network, on average; 0 sends only what is sent by hand, `inf` as fast as
            the connections take it (and only while somebody is connected).
        branches: how many branches the tree has. Each client is offered the parents of one of them.
        parent_levels: each branch has one parent at each of these levels; 0 is the branch root.
        overlap: the share of searches that all branches carry; each other search is carried by one branch alone.
        delay_seconds: how much later each further branch carries a search.
        regions: which account belongs to which branch; other accounts get the next branch in turn at first login.
        people: how many people search; by default as many as the rate needs at 130 searches a person and day.
        speed: how much faster than the clock the people live. With 60, a wishlist's 12 minutes are 12 seconds; the
            rate stays what it is, so there are fewer people.
        rhythm: whether people come online in the evening of where they live.
        hostile_share: the share of what people ask that is a hostile string.
        hit_share: the share of what is asked and wished that is one of the few things everybody wants.
        host: the address of everything.
        port: the server's port; 0 for a free one.
        upload_speed: what every account is said to upload with, in bytes a second; 0 lets no client accept children.
        keep_manifest: how many of the last searches `sent` holds.
        manifest_path: write each delivery to this file too, as JSON lines.
    """

    def __init__(
        self,
        *,
        seed: int = 1,
        rate: float = 50.0,
        branches: int = 2,
        parent_levels: Sequence[int] = (0,),
        overlap: float = 1.0,
        delay_seconds: float = 0.0,
        regions: Mapping[str, int] | None = None,
        people: int | None = None,
        speed: float = 1.0,
        rhythm: bool = False,
        hostile_share: float = searchers.HOSTILE,
        hit_share: float = searchers.HITS,
        host: str = frames.LOCALHOST,
        port: int = 0,
        upload_speed: int = 0,
        keep_manifest: int = DEFAULT_KEEP,
        manifest_path: Path | None = None,
    ) -> None:
        self.seed = seed
        self.rate = rate
        if people is None:
            people = DEFAULT_PEOPLE
            if math.isfinite(rate):
                people = max(1, round(rate * 86400 / speed / searchers.SEARCHES_A_DAY))
        self.people = people
        self.sent = Manifest(keep_manifest, manifest_path)
        self.injected = Manifest(keep_manifest)
        """What strangers sent: nobody should believe it."""
        self.branches = [Branch(number, parent_levels, host=host) for number in range(branches)]
        self.server = Server(self._parents_for, host=host, port=port, upload_speed=upload_speed)
        self.strangers: list[Stranger] = []
        self.silent = False
        """While true, no search goes out."""
        self.deaf: set[str] = set()
        """Accounts to which no search goes."""
        self.offers_parents = True
        """While false, nobody is offered a parent, and the server sends the searches to its branch roots."""
        self._regions = dict(regions or {})
        self._tickets = itertools.count(FIRST_TICKET)
        self._player = Player(self, overlap=overlap, delay_seconds=delay_seconds, speed=speed)
        self._stream = functools.partial(
            searchers.stream, seed, people, hostile_share=hostile_share, hit_share=hit_share, rhythm=rhythm
        )

    @property
    def server_address(self) -> tuple[str, int]:
        """Host and port of the server."""
        return self.server.listener.host, self.server.listener.port

    async def start(self) -> None:
        """Open every port and let the people begin.

        Raises:
            OSError: a port is taken.
        """
        self.sent.open()
        for branch in self.branches:
            await branch.start()
        await self.server.listener.start()
        if self.rate > 0:
            self._player.start(self._stream(), at_once=math.isinf(self.rate))

    async def stop(self) -> None:
        """Let the people rest, and close every connection and port."""
        await self._player.stop()
        await faults.leave(self)
        await self.server.stop()
        for branch in self.branches:
            await branch.stop()
        self.sent.close()

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    # Accounts and their branches

    def set_password(self, username: str, password: str) -> None:
        """Let this account in with this password only. Any other account is let in with any."""
        self.server.passwords[username] = password

    def assign(self, username: str, branch: int) -> None:
        """Put an account into a branch: it is offered the parents of that branch from now on."""
        self._regions[username] = branch

    def branch_of(self, username: str) -> Branch:
        """The branch whose parents this account is offered."""
        number = self._regions.setdefault(username, len(self._regions) % len(self.branches))
        return self.branches[number]

    def accounts(self, username: str | None = None) -> list[Account]:
        """The accounts that are logged in: this one, or all."""
        return [one for one in self.server.accounts.values() if username in (None, one.username)]

    def _parents_for(self, username: str) -> Sequence[Parent]:
        return self.branch_of(username).parents if self.offers_parents else ()

    async def until_heard(self, *usernames: str, seconds: float = 10.0) -> None:
        """Wait until these accounts each have a parent, or are branch roots where there are no parents.

        Raises:
            TimeoutError: they have not.
        """
        async with asyncio.timeout(seconds):
            while not all(self._is_placed(username) for username in usernames):  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    def _is_placed(self, username: str) -> bool:
        account = self.server.accounts.get(username)
        if account is None:
            return False
        if not self.offers_parents:
            return account.is_branch_root
        adopted = any(username == child.username for child in self.branch_of(username).children())
        return adopted and not account.seeks_parent

    # Faults and what is sent by hand

    async def fault(self, name: str, **options: Any) -> Any:
        """Let something go wrong; see `faults.FAULTS` for names, options and what each returns.

        Raises:
            ValueError: there is no such fault.
        """
        if name not in faults.FAULTS:
            raise ValueError(f"there is no fault {name!r}, only {', '.join(sorted(faults.FAULTS))}")
        return await faults.FAULTS[name](self, **options)

    async def introduce(self, stranger: Stranger, account: Account) -> Stranger:
        """Let a stranger connect to a client; it is closed with the network.

        Raises:
            TimeoutError, OSError: the client does not let it.
        """
        self.strangers.append(stranger)
        await stranger.connect(account)
        return stranger

    def ticket(self) -> int:
        """A ticket that nobody used yet."""
        return next(self._tickets)

    async def send(
        self, search: Search | Triple, *, via: str = "parent", branch: int | None = None, to: str | None = None
    ) -> Sent:
        """Send exactly this search, now, to those who hear that way.

        Args:
            search: a `Search`, or (username, ticket, query); bytes are sent as they are.
            via: `parent` (from the parent), `embedded` (from the parent, the server's message as it is),
                `embedded-short` (the same with a code of one byte), `server` (from the server to its branch roots) or
                `addressed` (from the server to all, or to one account).
            branch: only by this branch; by default by all.
            to: only to this account, for `server` and `addressed`.

        Returns:
            The entry of the manifest, which names who it was written to.
        """
        if isinstance(search, Search):
            query = search.query if search.raw is None else search.raw
            sent = self.sent.add(search.username.encode(), search.ticket, _bytes(query), search.kind)
        else:
            sent = self.sent.add(_bytes(search[0]), search[1], _bytes(search[2]), "person")
        self.carry(sent, via=via, branch=branch, to=to)
        return sent

    def carry(self, sent: Sent, *, via: str = "parent", branch: int | None = None, to: str | None = None) -> None:
        """Send what is in the manifest already, and note the delivery."""
        frame = sent.frame(via)
        if via in ("server", "addressed"):
            self.sent.deliver(sent, Delivery(via, None, time.time(), self.write_from_server(frame, via, to)))
            return
        for one in self.branches:
            if branch in (None, one.number):
                self.sent.deliver(sent, Delivery(via, one.number, time.time(), self.write_from(one, frame)))

    def write(self, data: bytes, via: str) -> tuple[str, ...]:
        """Write any bytes to all who hear that way, and name them."""
        if via in ("server", "addressed"):
            return self.write_from_server(data, "addressed")
        return tuple(itertools.chain.from_iterable(self.write_from(branch, data) for branch in self.branches))

    def write_from(self, branch: Branch, data: bytes) -> tuple[str, ...]:
        """Write bytes to the children of a branch, and name them."""
        return () if self.silent else branch.write(data, self.deaf)

    def write_from_server(
        self, data: bytes, via: str, to: str | None = None, branch: Branch | None = None
    ) -> tuple[str, ...]:
        """Write bytes from the server to its branch roots (`server`) or to all (`addressed`), and name them."""
        heard_by = []
        for account in self.accounts(to):
            wanted = via == "addressed" or account.is_branch_root
            wanted = wanted and account.username not in self.deaf and not self.silent
            if wanted and branch in (None, self.branch_of(account.username)) and account.write(data):
                heard_by.append(account.username)
        return tuple(heard_by)

    def is_heard(self) -> bool:
        """Whether a search that went out now would reach anybody."""
        if self.silent:
            return False
        if not self.offers_parents:
            return any(account.is_branch_root for account in self.accounts())
        return any(branch.children() for branch in self.branches)

    async def drain(self) -> None:
        """Wait until everyone has room for more."""
        for branch in self.branches:
            await branch.drain()
        for account in self.accounts():
            await sockets.drain(account.writer)

    def status(self) -> dict[str, Any]:
        """What there is to say about the network at this moment, as JSON takes it."""
        return {
            "server": "{}:{}".format(*self.server_address),
            "people": self.people,
            "searches": self.sent.searches,
            "written": self.sent.written,
            "injected": self.injected.searches,
            "logins": dict(self.server.logins),
            "accounts": {
                one.username: {
                    "branch": self.branch_of(one.username).number,
                    "level": one.branch_level,
                    "root": one.branch_root,
                    "seeks_parent": one.seeks_parent,
                }
                for one in self.accounts()
            },
        }


def _bytes(text: Text) -> bytes:
    return text if isinstance(text, bytes) else text.encode()
