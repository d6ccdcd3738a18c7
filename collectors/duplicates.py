"""The same search heard again.

A parent that changes, or a peer that sends twice, delivers a search again within seconds. `(username, ticket, query)`
names one search only near in time: clients reuse a ticket for every later repeat of a wish, and those count.
"""

import hashlib
from typing import Final

WINDOW_SECONDS: Final = 60
MAX_REMEMBERED: Final = 600_000
"""About 130 MB, and enough for 5,000 searches/s, a hundred times the network's rate; at 100/s it takes 3 MB. Beyond it
the window gets shorter (at 10,000/s it is never under 30 seconds)."""
MAX_WHOLE_CHARACTERS: Final = 64
"""Longer queries are remembered by their SHA-256: as exact, and a flood of 64 KB queries takes no more memory."""

_WINDOW_MS: Final = WINDOW_SECONDS * 1000

_Identity = tuple[str, int, str | bytes]


class Duplicates:
    """Remembers the searches kept in the last 60 seconds, in memory only, under the pseudonyms of their searchers.

    The time counts from when a search was *kept*: one repeated every 50 seconds is kept every second time. One that is
    repeated across the beginning of a key epoch is kept twice, as its searcher has two pseudonyms.

    Attributes:
        evicted: Searches forgotten too early, at most, because there were more than `max_remembered`.
    """

    def __init__(self, max_remembered: int = MAX_REMEMBERED) -> None:
        self.evicted = 0
        self._generation_limit = max(1, max_remembered // 2)
        # When each was kept. All recent ones were kept less than 60 seconds ago, of the older ones some.
        self._recent: dict[_Identity, int] = {}
        self._older: dict[_Identity, int] = {}
        self._forgotten: dict[_Identity, int] = {}
        self._elapsed_ms = 0
        self._turn_at_ms = 0
        self._last_ms = 0

    def __len__(self) -> int:
        return len(self._recent) + len(self._older)

    def is_repeat(self, pseudonym: str, ticket: int, query: str, timestamp_ms: int) -> bool:
        """Tells whether the search was kept less than 60 seconds ago; remembers nothing."""
        now = self._tick(timestamp_ms)
        identity = (pseudonym, ticket, query if len(query) <= MAX_WHOLE_CHARACTERS else _digest(query))
        return identity in self._recent or now - self._older.get(identity, now - _WINDOW_MS) < _WINDOW_MS

    def keep(self, pseudonym: str, ticket: int, query: str, timestamp_ms: int) -> bool:
        """Remembers the search as kept now; False, and nothing remembered, when it is a repeat."""
        now = self._tick(timestamp_ms)
        identity = (pseudonym, ticket, query if len(query) <= MAX_WHOLE_CHARACTERS else _digest(query))
        kept_at = self._older.get(identity)
        if kept_at is not None and now - kept_at < _WINDOW_MS:
            return False
        recent = self._recent
        before = len(recent)
        # Asks and remembers at once: hashing the identity is most of the work.
        recent.setdefault(identity, now)
        if len(recent) == before:
            return False
        if len(recent) >= self._generation_limit:
            self.evicted += len(self._older)
            self._turn()
        # A generation is let go one by one: freeing hundreds of thousands at once would hold up the listening.
        if self._forgotten:
            self._forgotten.popitem()
        return True

    def _tick(self, timestamp_ms: int) -> int:
        """Milliseconds gone by, by a clock that may be set back: such a step counts as no time at all."""
        if timestamp_ms > self._last_ms:
            self._elapsed_ms += timestamp_ms - self._last_ms
        self._last_ms = timestamp_ms
        if self._elapsed_ms >= self._turn_at_ms:
            self._turn()
        return self._elapsed_ms

    def _turn(self) -> None:
        self._forgotten, self._older, self._recent = self._older, self._recent, {}
        self._turn_at_ms = self._elapsed_ms + _WINDOW_MS


def _digest(query: str) -> bytes:
    return hashlib.sha256(query.encode("utf-8", "surrogatepass")).digest()
