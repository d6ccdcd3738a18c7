"""Names of people inside queries.

Some queries name somebody, and with the name published the pseudonym would be worth nothing. Who is a person here is
known only while the names are heard, so the query is flagged then or never.

A name stands in a query when its words stand there one after the other as whole words; words are runs of letters and
digits, compatibility forms and cases folded. Not looked for:

- names with fewer than 4 letters and digits ("dj", "u2", "the"): they would flag queries that name nobody, by the
  thousand, and a flag that is everywhere protects nobody;
- names longer than any server grants, or of more than 8 words, so that nobody can fill our memory or our time;
- a name run together with other letters, as scripts without spaces may write it.
"""

import re
import string
import unicodedata
from typing import Final

WINDOW_HOURS: Final = 6
"""A name is remembered for at least this long after it was last heard, and for twice as long at most."""
MAX_NAMES: Final = 100_000
"""About 25 MB; a day on one branch brings 30,000 (11 MB). Beyond it the window gets shorter."""
MIN_NAME_CHARACTERS: Final = 4
MAX_NAME_CHARACTERS: Final = 64
MAX_NAME_WORDS: Final = 8

_WINDOW_MS: Final = WINDOW_HOURS * 3_600_000
_WORD: Final = re.compile(r"[^\W_]+")
# What is neither ASCII nor part of a word: dashes, quotes, emoji, accents on their own.
_FOREIGN_SEPARATOR: Final = re.compile(r"[^\x00-\x7f\w]")
_LETTERS_AND_DIGITS: Final = (string.ascii_letters + string.digits).encode() + bytes(range(0x80, 0x100))
_FOLD_BYTES: Final = bytes(code if code in _LETTERS_AND_DIGITS else 0x20 for code in range(256)).lower()


def words(text: str) -> list[bytes]:
    """Returns the words of a name or a query, in the form in which they are compared."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text).casefold()
        if _FOREIGN_SEPARATOR.search(text):
            return [word.encode() for word in _WORD.findall(text)]
    # Several times faster than the expression; nearly all queries go this way.
    return text.encode().translate(_FOLD_BYTES).split()


class _Generation:
    """The names heard in one part of the window."""

    __slots__ = ("first_words", "heard", "longest", "names")

    def __init__(self) -> None:
        self.heard: set[str] = set()
        self.names: set[bytes] = set()
        """The names to look for, their words joined by spaces."""
        self.first_words: set[bytes] = set()
        self.longest: dict[bytes, int] = {}
        """How many words the longest name that begins with a word has, where it is more than one."""

    def hear(self, name: str) -> None:
        self.heard.add(name)
        parts = words(name)
        if sum(len(part.decode()) for part in parts) < MIN_NAME_CHARACTERS or len(parts) > MAX_NAME_WORDS:
            return
        self.names.add(parts[0] if len(parts) == 1 else b" ".join(parts))
        self.first_words.add(parts[0])
        if len(parts) > 1:
            self.longest[parts[0]] = max(len(parts), self.longest.get(parts[0], 0))

    def found_in(self, query_words: list[bytes]) -> bool:
        if not self.names.isdisjoint(query_words):
            return True
        longest = self.longest
        for start, word in enumerate(query_words):
            if word in longest:
                for end in range(start + 2, min(start + longest[word], len(query_words)) + 1):
                    if b" ".join(query_words[start:end]) in self.names:
                        return True
        return False


class Names:
    """The names heard in the last hours: a bounded window, in memory only."""

    def __init__(self, max_names: int = MAX_NAMES) -> None:
        self._generation_limit = max(1, max_names // 2)
        self._recent = _Generation()
        self._older = _Generation()
        self._begun_ms = 0
        self._ends_ms = 0

    def __len__(self) -> int:
        return len(self._recent.heard) + len(self._older.heard)

    def __reduce__(self) -> str:
        raise TypeError("names of people are never pickled")

    def hear(self, name: str, timestamp_ms: int) -> None:
        """Remembers a name from now on."""
        if not self._begun_ms <= timestamp_ms < self._ends_ms:
            self._turn(timestamp_ms)
        if name not in self._recent.heard and len(name) <= MAX_NAME_CHARACTERS:
            if len(self._recent.heard) >= self._generation_limit:
                self._begin(timestamp_ms)
            self._recent.hear(name)

    def found_in(self, query: str) -> bool:
        """Tells whether the query contains a name that is remembered."""
        query_words = words(query)
        recent, older = self._recent, self._older
        return (not recent.first_words.isdisjoint(query_words) and recent.found_in(query_words)) or (
            not older.first_words.isdisjoint(query_words) and older.found_in(query_words)
        )

    def _turn(self, timestamp_ms: int) -> None:
        if timestamp_ms < self._begun_ms:
            # The clock was set back: what is remembered stays, and its time counts from now.
            self._begun_ms, self._ends_ms = timestamp_ms, timestamp_ms + _WINDOW_MS
        elif timestamp_ms < self._ends_ms + _WINDOW_MS:
            self._begin(self._ends_ms)
        else:
            # Nobody was heard for so long that the recent names are old too.
            self._recent = _Generation()
            self._begin(timestamp_ms)

    def _begin(self, begun_ms: int) -> None:
        """Begins a generation and forgets the older one whole: a few milliseconds, once in six hours."""
        self._older, self._recent = self._recent, _Generation()
        self._begun_ms, self._ends_ms = begun_ms, begun_ms + _WINDOW_MS
