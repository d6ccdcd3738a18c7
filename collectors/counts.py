"""What became of the searches that reached this collector."""

import dataclasses
from typing import Final

NOT_FROM_PARENT: Final = "not from parent"
"""From a stranger, or from a candidate that is not (or no longer) our parent."""
BEFORE_LOGIN: Final = "before login"
UNREADABLE: Final = "unreadable"
OVERSIZED: Final = "oversized"
WRONG_CODE: Final = "wrong code"
"""An embedded message that is not a search."""

SPOOL_FULL: Final = "spool full"
DISK_ERROR: Final = "disk error"
IMPOSSIBLE_TIME: Final = "impossible time"
INTAKE_FULL: Final = "intake full"
"""The buffer in memory is at its limit: the spool has not kept up."""
NO_KEY: Final = "no key"
"""A new key epoch has begun and its key is not here."""


@dataclasses.dataclass(slots=True)
class Counts:
    """Counters since the start of the process; they only grow.

    Attributes:
        kept: Searches taken into the buffer. One that a later step had to drop is counted in `dropped` as well.
        duplicates: The same search again within a minute.
        refused: Not believed or not readable, by reason.
        dropped: Believed and yet not kept, by reason.
    """

    kept: int = 0
    duplicates: int = 0
    refused: dict[str, int] = dataclasses.field(default_factory=dict)
    dropped: dict[str, int] = dataclasses.field(default_factory=dict)

    def refuse(self, reason: str, number: int = 1) -> None:
        """Counts searches that are not believed or not readable."""
        self.refused[reason] = self.refused.get(reason, 0) + number

    def drop(self, reason: str, number: int = 1) -> None:
        """Counts searches that should have been kept and were not."""
        self.dropped[reason] = self.dropped.get(reason, 0) + number
