"""A search as it is kept: by which way it came, what is to be known about it, and the row it becomes."""

import enum


class Source(enum.IntEnum):
    """By which of the four ways a search arrived; the numbers stand in the column `source` (0: imported)."""

    DISTRIBUTED = 1
    """From the parent (`DistributedSearchRequest`)."""
    EMBEDDED = 2
    """From the parent, the server's own message inside (`DistributedServerSearchRequest`)."""
    SERVER = 3
    """From the server, as a branch root (`ServerSearchRequest`)."""
    ADDRESSED = 4
    """From the server, a user or room search aimed at this client (`FileSearch`)."""


class Flag(enum.IntFlag):
    """What is to be known about a kept query; the bits stand in the column `flags`."""

    ALTERED = 1
    """Control characters, or what UTF-8 cannot hold, were replaced by U+FFFD."""
    TRUNCATED = 2
    """It was longer than what is kept of a query."""
    NOT_UTF8 = 4
    """Its bytes, or the searcher's name, were not UTF-8 and were read in another encoding."""
    NAMES_SOMEONE = 8
    """It contains the name of somebody who was heard in the last hours: not to be published."""


Row = tuple[int, int | None, int, int, str, str]
"""Milliseconds since 1970 (UTC), ticket, `Source`, `Flag` bits, pseudonym, query."""
