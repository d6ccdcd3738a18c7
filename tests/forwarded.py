"""What a collector should have kept, worked out from what was forwarded to it: the rules once more, in another hand.

A tap writes a JSON object a line. One with a `ticket` is a search that was handed to a socket (unless it has `lost`):
`t` (Unix seconds), `conn`, `dir` ("s>c" from the server, "p>c" from a parent, "c>s" the other way), `route`, `user`,
`query_hex` (the bytes on the wire). The others tell of connections and faults.
"""

import dataclasses
import json
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

SOURCES = {"distrib": 1, "embedded": 2, "server": 3, "file": 4}
ALTERED, TRUNCATED, NOT_UTF8, NAMES_SOMEONE = 1, 2, 4, 8
KEPT_CHARACTERS = 4096
WINDOW_SECONDS = 60.0


class Search(NamedTuple):
    """A search as it is kept, but for the name of the searcher."""

    username: str
    ticket: int
    query: str
    source: int
    flags: int


@dataclasses.dataclass(frozen=True)
class Forwarded:
    """A search that was handed to a collector's socket.

    Attributes:
        at: when (Unix seconds).
        connection: over which connection.
        search: as it should be kept; without the flag `NAMES_SOMEONE`.
        whole: the query before anything was cut off or replaced.
    """

    at: float
    connection: str
    search: Search
    whole: str


def lines(record: Path) -> list[dict[str, Any]]:
    """Everything that the tap has written so far."""
    with record.open() as file:
        return [json.loads(line) for line in file if line.endswith("\n")]


def search_lines(record: Path) -> list[dict[str, Any]]:
    """Of these, the searches that were handed on to the collector."""
    return [one for one in lines(record) if "ticket" in one and one["dir"] != "c>s" and not one.get("lost")]


def searches(record: Path) -> list[Forwarded]:
    """The searches that were forwarded, in their order."""
    return [_read(one) for one in search_lines(record)]


def to_be_kept(heard: Iterable[Forwarded]) -> list[Forwarded]:
    """What one process should keep of what it hears: repeats within a minute left out, names in queries flagged."""
    kept: list[Forwarded] = []
    kept_at: dict[tuple[str, int, str], float] = {}
    names: set[str] = set()
    for one in heard:
        identity = (one.search.username, one.search.ticket, one.whole)
        if one.at - kept_at.get(identity, -WINDOW_SECONDS) < WINDOW_SECONDS:
            continue
        kept_at[identity] = one.at
        names.add(f" {_words(one.search.username)} ")
        text = f" {_words(one.search.query)} "
        flags = one.search.flags | (NAMES_SOMEONE if any(name in text for name in names) else 0)
        kept.append(dataclasses.replace(one, search=one.search._replace(flags=flags)))
    return kept


def _read(line: dict[str, Any]) -> Forwarded:
    raw = bytes.fromhex(line["query_hex"])
    try:
        whole, flags = raw.decode(), 0
    except UnicodeDecodeError:
        flags = NOT_UTF8
        try:
            whole = raw.decode("cp1252")
        except UnicodeDecodeError:
            whole = raw.decode("latin-1")
    query = "".join("\ufffd" if unicodedata.category(one) in ("Cc", "Cs") else one for one in whole[:KEPT_CHARACTERS])
    flags |= ALTERED * (query != whole[:KEPT_CHARACTERS]) | TRUNCATED * (len(whole) > KEPT_CHARACTERS)
    search = Search(line["user"], line["ticket"], query, SOURCES[line["route"]], flags)
    return Forwarded(line["t"], line["conn"], search, whole)


def _words(text: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", text).casefold()))
