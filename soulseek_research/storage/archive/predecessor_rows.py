"""A row of the predecessor's as it is kept here, or why it cannot be.

| there | here |
|---|---|
| `id` | a new one, in the order in which they come |
| `timestamp`, to the microsecond | to the millisecond, never rounded into the next |
| `client_id` | as it is |
| `username`, the SHA-256 of a name in 64 hex digits | `<key id>.<base64url>` of the same 32 bytes: 43 characters |
| `query` | cleaned as a collector would |
| nothing | no ticket; source 0, which is "not known"; flags of the cleaning only |

That SHA-256 has no key: whoever guesses a name can find it in these rows, as before. The key id tells them apart from
the pseudonyms of this software, and nobody is counted as one person across the two.

A row that cannot be taken is counted by its reason and left behind.
"""

import base64
import binascii
import functools
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime

SOURCE_NOT_KNOWN = 0
# Soulseek is no older: what claims to be is no time.
EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)

NO_TIME = "no time"
NO_ZONE = "time without a time zone"
TOO_EARLY = "before the year 2000"
TO_COME = "in the future"
NO_HASH = "username is no SHA-256 in hex"

_HASH_BYTES = 32
_CACHED_USERNAMES = 100_000
_CACHED_CLIENT_IDS = 1000

Clean = Callable[[str], tuple[str, int]]
"""Makes a query storable, and says which flags it gets for that."""

Row = tuple[datetime, None, int, int, str, str, str]
"""As `predecessor.COLUMNS`."""


class Taker:
    """Turns rows of the predecessor into ours, and counts those that cannot be.

    Attributes:
        left_behind: How many could not be, by reason.
        now: What is later lies in the future.
    """

    def __init__(self, key_id: str, clean: Clean, now: datetime) -> None:
        """Take rows up to a moment; their pseudonyms get this key id."""
        self.left_behind: Counter[str] = Counter()
        self._key_id = key_id
        self._clean = clean
        self.now = now
        self._pseudonym = functools.lru_cache(_CACHED_USERNAMES)(self._make_pseudonym)
        self._client_id = functools.lru_cache(_CACHED_CLIENT_IDS)(lambda client_id: clean(client_id)[0])

    def take(self, timestamp: datetime | str | None, client_id: str, username: str, query: str) -> Row | None:
        """Return the row as it is kept here; None when it cannot be, which is counted."""
        moment = self._moment(timestamp)
        if moment is None:
            return None
        pseudonym = self._pseudonym(username)
        if pseudonym is None:
            self.left_behind[NO_HASH] += 1
            return None
        query, flags = self._clean(query)
        return moment, None, SOURCE_NOT_KNOWN, flags, self._client_id(client_id), pseudonym, query

    def _moment(self, timestamp: datetime | str | None) -> datetime | None:
        try:
            moment = datetime.fromisoformat(timestamp) if isinstance(timestamp, str) else timestamp
            if moment is not None and moment.tzinfo not in (None, UTC):
                moment = moment.astimezone(UTC)
        except (ValueError, OverflowError):
            moment = None
        reason = self._objection(moment)
        if reason is not None:
            self.left_behind[reason] += 1
            return None
        assert moment is not None
        # PostgreSQL would round, and the last half millisecond of a month is not of the next one.
        return moment.replace(microsecond=moment.microsecond // 1000 * 1000)

    def _objection(self, moment: datetime | None) -> str | None:
        if moment is None:
            return NO_TIME
        if moment.tzinfo is None:
            return NO_ZONE
        if moment < EARLIEST:
            return TOO_EARLY
        return TO_COME if moment > self.now else None

    def _make_pseudonym(self, username: str) -> str | None:
        try:
            digest = binascii.unhexlify(username)
        except ValueError:
            return None
        if len(digest) != _HASH_BYTES:
            return None
        return f"{self._key_id}.{base64.urlsafe_b64encode(digest).decode().rstrip('=')}"
