"""Frames of the protocol: search frames packed fast, everything else through aioslsk's message classes.

Strings are bytes here, because the network carries strings that are not UTF-8.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import Any

from aioslsk.protocol import messages
from aioslsk.protocol.primitives import (
    MessageDataclass,
    PotentialParent,
    UserStats,
)

__all__ = ["MessageDataclass", "PotentialParent", "UserStats", "messages"]

LOCALHOST = "127.0.0.1"
# What stands in every search's first field; nobody knows what it once meant.
UNKNOWN = 0x31
# A client sends us small messages only; a longer frame would be a mistake of ours, not of theirs.
READ_LIMIT_BYTES = 1 << 20

_HEADER = struct.Struct("<I")
_DISTRIBUTED = struct.Struct("<IBII")  # length, code 3, unknown, length of the username
_EMBEDDED = struct.Struct("<IIBII")  # length, code 93, distributed code 3, unknown, length of the username
_ADDRESSED = struct.Struct("<III")  # length, code 26, length of the username
_TICKET = struct.Struct("<II")  # ticket, length of the query

Packer = Callable[[bytes, int, bytes], bytes]


def distributed(username: bytes, ticket: int, query: bytes) -> bytes:
    """`DistributedSearchRequest`, as a parent sends it to its children."""
    users, asked = len(username), len(query)
    return _DISTRIBUTED.pack(17 + users + asked, 3, UNKNOWN, users) + username + _TICKET.pack(ticket, asked) + query


def embedded(username: bytes, ticket: int, query: bytes) -> bytes:
    """`DistributedServerSearchRequest` and `ServerSearchRequest`, which are the same bytes.

    The former is the server's message that an old branch root passes on to its children as it is.
    """
    users, asked = len(username), len(query)
    return _EMBEDDED.pack(21 + users + asked, 93, 3, UNKNOWN, users) + username + _TICKET.pack(ticket, asked) + query


def embedded_short(username: bytes, ticket: int, query: bytes) -> bytes:
    """An embedded search with a code of one byte, as some clients write it and aioslsk does not read it."""
    return _HEADER.pack(18 + len(username) + len(query)) + b"\x5d" + embedded(username, ticket, query)[8:]


def addressed(username: bytes, ticket: int, query: bytes) -> bytes:
    """`FileSearch`, a search of a room or of one user, as the server passes it to those it is aimed at."""
    users, asked = len(username), len(query)
    return _ADDRESSED.pack(16 + users + asked, 26, users) + username + _TICKET.pack(ticket, asked) + query


# The ways in which a search can reach a client.
PACKERS: dict[str, Packer] = {
    "parent": distributed,
    "embedded": embedded,
    "embedded-short": embedded_short,
    "server": embedded,
    "addressed": addressed,
}


def ticket_offset(via: str, username: bytes) -> int:
    """Where in such a frame the ticket stands, so that a prepared frame can be given another one."""
    return {"parent": 13, "embedded": 17, "embedded-short": 14, "server": 17, "addressed": 12}[via] + len(username)


async def read(reader: asyncio.StreamReader) -> bytes | None:
    """One frame with its header; None at the end of the stream, or where a frame is so long that real peers hang up."""
    try:
        header = await reader.readexactly(_HEADER.size)
        length: int = _HEADER.unpack(header)[0]
        if length > READ_LIMIT_BYTES:
            return None
        return header + await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


def decode(raw: bytes) -> str:
    """The string these bytes stand for: UTF-8, else cp1252 as aioslsk has it, else ISO-8859-1, which reads anything.

    The last are the strings with which aioslsk loses the whole search.
    """
    for encoding in ("utf-8", "cp1252"):
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError:
            continue
    return raw.decode("iso-8859-1")


def serialise(message: Any) -> bytes:
    """A message of aioslsk's as bytes."""
    raw: bytes = message.serialize()
    return raw
