"""The server: logins, the questions a client asks, and the offer of parents."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from . import frames, sockets
from .branch import Parent
from .frames import messages

# As the live server says them (wishlist interval) or near them.
WISHLIST_INTERVAL_SECONDS = 720
PARENT_MIN_SPEED_KB = 1
PARENT_SPEED_RATIO = 50
# The live server offers parents again once a minute or so while a client still seeks one.
OFFER_AGAIN_SECONDS = 2.0
ONLINE = 2


@dataclasses.dataclass(eq=False)
class Account:
    """One client that is logged in."""

    username: str
    writer: asyncio.StreamWriter
    port: int = 0
    """Its listening port; 0 when it has none."""
    seeks_parent: bool = False
    branch_level: int | None = None
    branch_root: str | None = None
    accepts_children: bool | None = None
    offer: asyncio.TimerHandle | None = None

    @property
    def is_branch_root(self) -> bool:
        """Whether it stands at the top of the tree, as far as it told us."""
        return self.branch_level == 0

    def send(self, *answers: Any) -> None:
        """Send messages, if the connection still stands."""
        self.write(b"".join(frames.serialise(answer) for answer in answers))

    def write(self, data: bytes) -> bool:
        """Send bytes; False when the connection is gone."""
        return sockets.write(self.writer, data)


class Server:
    """A Soulseek server that knows its accounts and which parents to offer to whom.

    Args:
        parents_for: the parents to offer to the account of this name; none when it shall be a branch root.
        upload_speed: bytes per second that every account is said to upload with. With 0, the default, a client accepts
            no children, as an account that shares nothing.
    """

    def __init__(
        self,
        parents_for: Callable[[str], Sequence[Parent]],
        *,
        host: str = frames.LOCALHOST,
        port: int = 0,
        upload_speed: int = 0,
    ) -> None:
        self.listener = sockets.Listener(self._serve, host, port)
        self.accounts: dict[str, Account] = {}
        self.upload_speed = upload_speed
        self.passwords: dict[str, str] = {}
        self.refuse_reason: str | None = None
        """While set, each login is refused with this reason."""
        self.mute_logins = False
        """While true, a login is never answered."""
        self.logins: collections.Counter[str] = collections.Counter()
        """Login attempts by username."""
        self.received: collections.Counter[str] = collections.Counter()
        """Messages that clients sent, by the name of their class (`GetPeerAddress`), or `unknown`."""
        self._parents_for = parents_for
        self._changed = asyncio.Condition()

    async def until(self, condition: Callable[[], bool], timeout: float = 10.0) -> None:  # noqa: ASYNC109
        """Wait until something that clients tell the server has become true.

        Raises:
            TimeoutError: it did not within `timeout` seconds.
        """
        async with asyncio.timeout(timeout), self._changed:
            await self._changed.wait_for(condition)

    async def stop(self, *, reset: bool = False) -> None:
        """End every connection and listen no more."""
        await self.listener.stop(reset=reset)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        account = None
        try:
            while (frame := await frames.read(reader)) is not None:
                message = self._decode(frame)
                if account is not None:
                    self._answer(account, message)
                elif isinstance(message, messages.Login.Request):
                    account = self._login(message, writer)
                async with self._changed:
                    self._changed.notify_all()
        finally:
            if account is not None:
                self._forget(account)
                async with self._changed:
                    self._changed.notify_all()

    def _decode(self, frame: bytes) -> Any:
        try:
            message = messages.ServerMessage.deserialize_request(frame)
        except Exception:  # noqa: BLE001 - other clients know messages that aioslsk does not
            self.received["unknown"] += 1
            return None
        self.received[type(message).__qualname__.partition(".")[0]] += 1
        return message

    def _login(self, login: Any, writer: asyncio.StreamWriter) -> Account | None:
        self.logins[login.username] += 1
        if self.mute_logins:
            return None
        reason = self.refuse_reason
        if self.passwords.get(login.username, login.password) != login.password:
            reason = "INVALIDPASS"
        if reason is not None:
            writer.write(frames.serialise(messages.Login.Response(success=False, reason=reason)))
            return None
        if other := self.accounts.get(login.username):
            self.kick(other)
        account = Account(login.username, writer)
        self.accounts[account.username] = account
        account.send(
            messages.Login.Response(
                success=True,
                greeting="A simulated network.",
                ip=self.listener.host,
                md5hash=hashlib.md5(login.password.encode(), usedforsecurity=False).hexdigest(),
                privileged=False,
            ),
            messages.RoomList.Response([], [], [], [], [], [], []),
            messages.ParentMinSpeed.Response(PARENT_MIN_SPEED_KB),
            messages.ParentSpeedRatio.Response(PARENT_SPEED_RATIO),
            messages.WishlistInterval.Response(WISHLIST_INTERVAL_SECONDS),
            messages.PrivilegedUsers.Response([]),
            messages.ExcludedSearchPhrases.Response([]),
        )
        return account

    def _forget(self, account: Account) -> None:
        if account.offer is not None:
            account.offer.cancel()
        if self.accounts.get(account.username) is account:
            del self.accounts[account.username]

    def _answer(self, account: Account, message: Any) -> None:
        """Take what a client tells, and answer what it asks."""
        match message:
            case messages.SetListenPort.Request():
                account.port = message.port
            case messages.BranchLevel.Request():
                account.branch_level = message.level
            case messages.BranchRoot.Request():
                account.branch_root = message.username
            case messages.AcceptChildren.Request():
                account.accepts_children = bool(message.accept)
            case messages.ToggleParentSearch.Request():
                account.seeks_parent = bool(message.enable)
                self.offer_parents(account)
            case _:
                self._answer_question(account, message)

    def _answer_question(self, account: Account, message: Any) -> None:
        match message:
            case messages.AddUser.Request():
                account.send(self._user(message.username))
            case messages.GetUserStatus.Request():
                status = ONLINE if message.username in self.accounts else 0
                account.send(messages.GetUserStatus.Response(message.username, status, privileged=False))
            case messages.GetUserStats.Request():
                account.send(messages.GetUserStats.Response(message.username, self.stats()))
            case messages.CheckPrivileges.Request():
                account.send(messages.CheckPrivileges.Response(0))
            case messages.GetPeerAddress.Request():
                account.send(self._address(account, message.username))
            case messages.ConnectToPeer.Request():
                # Parents can be reached at the address that was offered, so nobody needs to come back to a client.
                account.send(messages.CannotConnect.Response(message.ticket))

    def offer_parents(self, account: Account) -> None:
        """Offer parents to a client that seeks one, now and again until it has found one."""
        if account.offer is not None:
            account.offer.cancel()
            account.offer = None
        if not account.seeks_parent:
            return
        parents = [parent for parent in self._parents_for(account.username) if parent.port]
        if parents:
            entries = [frames.PotentialParent(one.username, one.listener.host, one.port) for one in parents]
            account.send(messages.PotentialParents.Response(entries))
        loop = asyncio.get_running_loop()
        account.offer = loop.call_later(OFFER_AGAIN_SECONDS, self.offer_parents, account)

    def kick(self, account: Account) -> None:
        """Tell a client that its account is in use elsewhere, and close."""
        account.send(messages.Kicked.Response())
        sockets.end(account.writer)

    def _user(self, username: str) -> Any:
        if username not in self.accounts:
            return messages.AddUser.Response(username, exists=False)
        return messages.AddUser.Response(
            username, exists=True, status=ONLINE, user_stats=self.stats(), country_code="NL"
        )

    def stats(self) -> Any:
        """What every account is said to upload and share."""
        return frames.UserStats(self.upload_speed, 0, 0, 0)

    def _address(self, account: Account, username: str) -> Any:
        for parent in self._parents_for(account.username):
            if parent.username == username:
                return messages.GetPeerAddress.Response(username, parent.listener.host, parent.port, 0, 0)
        other = self.accounts.get(username)
        host = self.listener.host if other else "0.0.0.0"  # noqa: S104 - means "unknown" here
        return messages.GetPeerAddress.Response(username, host, other.port if other else 0, 0, 0)
