"""From what was heard to what is kept: the last place that sees a raw username.

Names stay in memory in two places, both bounded: the cache of pseudonyms, and the window of names that queries are
searched for. Neither shows them in its repr, and neither can be pickled.
"""

import contextlib
import time
from collections.abc import Callable
from typing import Final

from collectors import cleaning, counts, keys
from collectors.duplicates import Duplicates
from collectors.names import Names
from collectors.search import Flag, Row, Source

FLUSH_AT_SEARCHES: Final = 500
"""How many pending searches wake the flush before its second is over."""
BUFFER_LIMIT: Final = 100_000
BUFFER_MAX_BYTES: Final = 64 * 1024 * 1024

_NAMES_SOMEONE: Final = int(Flag.NAMES_SOMEONE)
# A row beside its query: the tuple, its numbers, a pseudonym that the cache may have let go.
_ROW_BYTES: Final = 400


class Intake:
    """Takes each search as it is heard and makes it a row; synchronous and never waiting.

    Attributes:
        last_heard: By the clock, when a search was last heard, a duplicate too; 0 before the first.
        on_full: Called once for each buffer, when 500 searches are pending.
    """

    def __init__(
        self,
        pseudonym: Callable[[str, int], str],
        counts: counts.Counts,
        *,
        own_username: str | None,
        buffer_limit: int = BUFFER_LIMIT,
        buffer_max_bytes: int = BUFFER_MAX_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Prepares to listen.

        Args:
            pseudonym: The pseudonym of a username at a time (milliseconds since 1970).
            counts: Where each search is counted.
            own_username: Our own account; the server sends a branch root its own searches, which nobody made.
            buffer_limit: How many searches may wait for the spool.
            buffer_max_bytes: How much memory they may take, roughly.
            clock: Seconds since 1970.
        """
        self.last_heard = 0.0
        self.on_full: Callable[[], None] | None = None
        self._pseudonym = pseudonym
        self._counts = counts
        self._own_username = own_username
        self._buffer_limit = buffer_limit
        self._buffer_max_bytes = buffer_max_bytes
        self._clock = clock
        self._duplicates = Duplicates()
        self._names = Names()
        self._buffer: list[Row] = []
        self._buffer_bytes = 0

    @property
    def pending(self) -> int:
        """How many searches wait for the spool."""
        return len(self._buffer)

    def take(self) -> list[Row]:
        """Returns the pending searches in the order in which they were heard, and begins a new buffer."""
        taken, self._buffer, self._buffer_bytes = self._buffer, [], 0
        return taken

    def hear(
        self, source: Source, username: str, ticket: int, query: str, flags: int = 0, now: float | None = None
    ) -> bool:
        """Takes one search that is believed; False when it is our own, a duplicate or cannot be kept.

        Never raises: one search that cannot be read is counted and holds up no other.

        Args:
            source: By which way it came.
            username: Who searches.
            ticket: The searcher's number for it.
            query: What for.
            flags: What is known about it already.
            now: When it was heard (Unix seconds), if it was not just now.
        """
        try:
            if username == self._own_username:
                return False
            if now is None:
                now = self._clock()
            self.last_heard = now
            timestamp_ms = int(now * 1000)
            pseudonym = self._pseudonym(username, timestamp_ms)
            buffer = self._buffer
            if len(buffer) >= self._buffer_limit or self._buffer_bytes >= self._buffer_max_bytes:
                self._overflow(pseudonym, ticket, query, timestamp_ms)
                return False
            if not self._duplicates.keep(pseudonym, ticket, query, timestamp_ms):
                self._counts.duplicates += 1
                return False
            query, altered = cleaning.clean(query)
            names = self._names
            names.hear(username, timestamp_ms)
            if names.found_in(query):
                altered |= _NAMES_SOMEONE
            buffer.append((timestamp_ms, cleaning.clean_ticket(ticket), int(source), flags | altered, pseudonym, query))
            self._buffer_bytes += _ROW_BYTES + 4 * len(query)
            self._counts.kept += 1
        except keys.KeyRingError:
            self._counts.drop(counts.NO_KEY)
            return False
        except Exception:  # noqa: BLE001 - whatever it is, it holds a raw name and must not travel further
            self._counts.refuse(counts.UNREADABLE)
            return False
        if len(buffer) == FLUSH_AT_SEARCHES and self.on_full is not None:
            # A waker that fails costs at most the rest of the second until the next flush.
            with contextlib.suppress(Exception):
                self.on_full()
        return True

    def _overflow(self, pseudonym: str, ticket: int, query: str, timestamp_ms: int) -> None:
        # Not remembered as kept, because it is not; yet a repeat of one that was kept is no loss.
        if self._duplicates.is_repeat(pseudonym, ticket, query, timestamp_ms):
            self._counts.duplicates += 1
        else:
            self._counts.drop(counts.INTAKE_FULL)
