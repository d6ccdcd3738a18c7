"""Keeps listening: session after session, with patience between them, until it is cancelled or makes no sense."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import random
import time
from collections import deque
from typing import Final, NoReturn

from collectors import privacy, session
from collectors.client import Ears, Vantage
from collectors.errors import CollectorError
from collectors.session import Ended, Ending, OnState, State

_log = logging.getLogger(__name__)
# The server's words for an account that will not get better by asking again.
CREDENTIALS_REFUSED: Final = {
    "INVALIDPASS": "the password is wrong",
    "EMPTYPASSWORD": "the password is empty",
    "INVALIDUSERNAME": "the username is not allowed",
}


class CredentialsRefused(CollectorError):  # noqa: N818 - the error is in what happened
    """The server does not accept the account."""


class AccountInUseElsewhere(CollectorError):  # noqa: N818
    """Somebody else logs in with the same account, again and again."""


@dataclasses.dataclass(frozen=True)
class Patience:
    """How long to wait between sessions, in seconds, and when to give up.

    Attributes:
        first_seconds: the least wait.
        most_seconds: the longest; the bound doubles with each session that came to nothing.
        settled_seconds: a session that listened so long was a success, after which waiting begins anew.
        kicks: so many kicks within the window mean that the account is in use elsewhere.
        kick_window_seconds: the window.
    """

    first_seconds: float = 1.0
    most_seconds: float = 300.0
    settled_seconds: float = 60.0
    kicks: int = 3
    kick_window_seconds: float = 3600.0


async def listen_forever(
    vantage: Vantage,
    ears: Ears,
    *,
    terms: session.Terms | None = None,
    patience: Patience | None = None,
    on_state: OnState | None = None,
) -> NoReturn:
    """Listens, session after session. Cancelling it stops it; everything is closed when that is done.

    Args:
        vantage: where and as whom.
        ears: what takes the searches.
        terms: how long a session may take for what.
        patience: how long to wait between sessions.
        on_state: told each change of state, which is logged as well.

    Raises:
        CredentialsRefused: the account is not accepted.
        AccountInUseElsewhere: the account was kicked three times within an hour.
    """
    terms, patience = terms or session.Terms(), patience or Patience()
    failures = 0
    kicks: deque[float] = deque(maxlen=patience.kicks)

    def tell(state: State, detail: str) -> None:
        _log.info("%s: %s", state.value, detail)
        if on_state is None:
            return
        try:
            on_state(state, detail)
        except Exception as error:  # noqa: BLE001 - this may be in the middle of a search, which must not suffer
            _log.error("A change of state could not be told: %s", privacy.describe(error))

    why = Ending.STOPPED.value
    try:
        while True:
            tell(State.CONNECTING, f"{vantage.host}:{vantage.port}")
            ended = await session.listen(vantage, ears, terms=terms, on_state=tell)
            try:
                _consider(ended, kicks, patience)
            except CollectorError as error:
                why = str(error)
                raise
            if ended.listened_seconds >= patience.settled_seconds or ended.ending is Ending.RENEWED:
                failures = 0
            seconds = _wait_seconds(failures, patience)
            failures += 1
            tell(State.WAITING, f"{seconds:.1f} s: {ended}")
            await asyncio.sleep(seconds)
    finally:
        tell(State.STOPPED, why)


def _consider(ended: Ended, kicks: deque[float], patience: Patience) -> None:
    """Gives up where going on would only annoy the server."""
    if ended.ending is Ending.REFUSED and ended.detail in CREDENTIALS_REFUSED:
        words = CREDENTIALS_REFUSED[ended.detail]
        raise CredentialsRefused(f"the server refused the account: {words} ({ended.detail})")
    if ended.ending is Ending.KICKED:
        now = time.monotonic()
        kicks.append(now)
        if len(kicks) == patience.kicks and now - kicks[0] <= patience.kick_window_seconds:
            raise AccountInUseElsewhere(
                f"the account was logged in elsewhere {patience.kicks} times within "
                f"{patience.kick_window_seconds / 60:.0f} minutes: give this collector an account of its own"
            )


def _wait_seconds(failures: int, patience: Patience) -> float:
    """Exponential backoff with full jitter, so that collectors do not come back all at once."""
    bound = min(patience.most_seconds, patience.first_seconds * 2.0 ** min(failures + 1, 32))
    return random.uniform(patience.first_seconds, max(patience.first_seconds, bound))  # noqa: S311 - not a secret
