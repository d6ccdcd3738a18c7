"""The manifest: what the simulated network sent, by which way, when, and who was there to hear it."""

from __future__ import annotations

import dataclasses
import json
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from . import frames

DEFAULT_KEEP = 250_000


class Delivery(NamedTuple):
    """One search written to the connections of one branch (or of the server), once."""

    via: str
    """`parent`, `embedded`, `server` or `addressed`; `stranger` for what nobody should believe."""
    branch: int | None
    """The number of the branch that carried it; None when the server sent it itself."""
    at: float
    """Unix time in seconds when it was handed to the sockets."""
    heard_by: tuple[str, ...]
    """Usernames of the accounts it was written to; empty when nobody was connected."""


@dataclasses.dataclass(slots=True, eq=False)
class Sent:
    """One search and every way it went."""

    raw_username: bytes
    ticket: int
    raw_query: bytes
    kind: str
    deliveries: list[Delivery] = dataclasses.field(default_factory=list)

    @property
    def username(self) -> str:
        """As aioslsk decodes it."""
        return frames.decode(self.raw_username)

    @property
    def query(self) -> str:
        """As aioslsk decodes it."""
        return frames.decode(self.raw_query)

    def frame(self, via: str) -> bytes:
        """The bytes of this search as it comes that way."""
        return frames.PACKERS[via](self.raw_username, self.ticket, self.raw_query)

    @property
    def identity(self) -> tuple[str, int, str]:
        """What names one search within a minute: username, ticket and query."""
        return self.username, self.ticket, self.query

    @property
    def branches(self) -> dict[int, float]:
        """When each branch first carried it."""
        first: dict[int, float] = {}
        for delivery in self.deliveries:
            if delivery.branch is not None:
                first.setdefault(delivery.branch, delivery.at)
        return first

    @property
    def sent_at(self) -> float | None:
        """Unix time in seconds of the first delivery."""
        return min((delivery.at for delivery in self.deliveries), default=None)


class Manifest:
    """The searches that were sent, in order: all of them, the last so many, or none but the counts.

    Args:
        keep: how many searches to hold in memory; 0 holds none.
        path: also write each delivery to this file, as a line of JSON.
    """

    def __init__(self, keep: int = DEFAULT_KEEP, path: Path | None = None) -> None:
        self.searches = 0
        """How many searches went out, kept here or not."""
        self.written = 0
        """How many frames went to connections: a search that two clients heard counts twice."""
        self._kept: deque[Sent] = deque(maxlen=keep)
        self._path = path
        self._file: IO[str] | None = None

    def open(self) -> None:
        """Open the file, if there is to be one."""
        if self._path is not None and self._file is None:
            self._file = self._path.open("a", encoding="utf-8", buffering=1)  # a line at a time

    def close(self) -> None:
        """Close the file; what is in memory stays."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def add(self, username: bytes, ticket: int, query: bytes, kind: str) -> Sent:
        """Note a search that is about to go out."""
        sent = Sent(username, ticket, query, kind)
        self.searches += 1
        self._kept.append(sent)
        return sent

    def deliver(self, sent: Sent, delivery: Delivery) -> None:
        """Note that this search was written to these connections."""
        sent.deliveries.append(delivery)
        self.written += len(delivery.heard_by)
        if self._file is not None:
            row: dict[str, object] = {"username": sent.username, "ticket": sent.ticket, "query": sent.query}
            row["kind"] = sent.kind
            self._file.write(json.dumps(row | delivery._asdict()) + "\n")

    def to(self, username: str) -> list[Sent]:
        """The searches that were written to this account, each once, in the order they were first sent."""
        return [sent for sent in self if any(username in delivery.heard_by for delivery in sent.deliveries)]

    def last(self, count: int) -> list[Sent]:
        """The latest of those that are kept, oldest first."""
        return list(self._kept)[-count:] if count > 0 else []

    def __iter__(self) -> Iterator[Sent]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: int) -> Sent:
        return self._kept[index]
