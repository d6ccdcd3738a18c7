"""What is counted of a part's rows, so that table, stream and file can be compared."""

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Tally:
    """Count, extremes and sums over some rows; two tallies of disjoint rows add up.

    Timestamps are milliseconds since 1970 (UTC), lengths are in bytes of UTF-8. Of these figures SQL computes the same
    by itself: `sql/tally.sql`.
    """

    rows: int = 0
    first_timestamp: int | None = None
    last_timestamp: int | None = None
    ids: int = 0
    timestamps: int = 0
    tickets: int = 0
    without_ticket: int = 0
    sources: int = 0
    flags: int = 0
    client_id_bytes: int = 0
    username_bytes: int = 0
    query_bytes: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        """The tally of both."""
        added = {name: mine + theirs for name, mine, theirs in _pairs(self, other) if not name.endswith("_timestamp")}
        first = [tally.first_timestamp for tally in (self, other) if tally.first_timestamp is not None]
        last = [tally.last_timestamp for tally in (self, other) if tally.last_timestamp is not None]
        return Tally(**added, first_timestamp=min(first, default=None), last_timestamp=max(last, default=None))

    def differences(self, other: "Tally") -> list[str]:
        """The figures in which they differ, in words; empty when they agree."""
        return [f"{name}: {mine} and {theirs}" for name, mine, theirs in _pairs(self, other) if mine != theirs]

    def to_json(self) -> dict[str, Any]:
        """As it stands in the catalogue and the manifest."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "Tally":
        """The inverse of `to_json`."""
        return cls(**document)


def _pairs(one: Tally, other: Tally) -> list[tuple[str, Any, Any]]:
    names = [field.name for field in dataclasses.fields(Tally)]
    return [(name, getattr(one, name), getattr(other, name)) for name in names]
