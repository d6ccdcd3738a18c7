"""Frames of the wire: cut out of the byte stream in bulk, and searches read out of them with struct.

A frame is a little-endian unsigned 32-bit length and as many bytes. On a D connection the first of them is the code;
on the server connection the first four are. Two of the server's ways to send a search hold a whole distributed message
(its code 3 first), which is what children are to be sent.
"""

import struct
from typing import Final

from collectors.search import Flag

HEADER_BYTES: Final = 4
SEARCH_FRAME_MAX_BYTES: Final = 1 << 20
"""A longer search is not taken. Nicotine+ hangs up at 16 KiB, but queries of 64 KiB are seen."""
FRAME_MAX_BYTES: Final = 16 << 20
"""No frame is longer: the server's lists of rooms and privileged users have a megabyte or so."""

# Codes. The first is the first byte after the length, the others are unsigned 32-bit numbers.
DISTRIBUTED_SEARCH: Final = 3
DISTRIBUTED_CHILD_DEPTH: Final = 7
EMBEDDED: Final = 93
FILE_SEARCH: Final = 26

# Where the strings begin: after length, code and the number nobody knows; or after length and code.
_DISTRIBUTED_STRINGS = 9
_ADDRESSED_STRINGS = 8
_SERVER_INNER = 8

_length = struct.Struct("<I")
_ticket_and_length = struct.Struct("<II")

Search = tuple[str, int, str, int]
"""Username, ticket, query, `Flag` bits."""


class Cutter:
    """Cuts a byte stream into frames; holds at most one incomplete frame, and never one longer than it takes.

    Args:
        taken_max_bytes: a longer frame is skipped as its bytes arrive: anybody can send a search of megabytes, and
            whoever passes it on means no harm.
        skipped_max_bytes: a stream that announces a still longer one is out of step, or hostile.

    Attributes:
        oversized: How many frames were too long, so far.
        ended: Nothing more can be cut from this stream.
    """

    __slots__ = ("_needed", "_rest", "_skip", "_skipped_max", "_taken_max", "ended", "oversized")

    def __init__(self, taken_max_bytes: int, skipped_max_bytes: int) -> None:
        self.oversized = 0
        self.ended = False
        self._taken_max, self._skipped_max = taken_max_bytes, skipped_max_bytes
        self._rest = bytearray()
        self._needed = HEADER_BYTES
        self._skip = 0

    def cut(self, data: bytes) -> list[bytes]:
        """The frames that are complete with these bytes, each with its header."""
        if self._skip:
            skipped = min(self._skip, len(data))
            self._skip -= skipped
            data = data[skipped:]
        if self._rest:
            self._rest += data
            if len(self._rest) < self._needed:  # so that a long frame that comes in crumbs costs no copy for each
                return []
            data = bytes(self._rest)
        frames: list[bytes] = []
        start, size = 0, len(data)
        needed = HEADER_BYTES
        while not self.ended and size - start >= HEADER_BYTES:
            needed = HEADER_BYTES + _length.unpack_from(data, start)[0]
            end = start + needed
            if needed > self._taken_max:
                self.oversized += 1
                self.ended = needed > self._skipped_max
                self._skip = max(0, end - size)
                end = min(end, size)
            elif end > size:
                break
            else:
                frames.append(data[start:end])
            start = end
            needed = HEADER_BYTES
        self._needed = needed
        self._rest = bytearray() if self.ended else bytearray(data[start:])
        return frames


def distributed_code(frame: bytes) -> int:
    """The code of a frame of a D connection; -1 when it is empty."""
    return frame[4] if len(frame) > 4 else -1


def server_code(frame: bytes) -> int:
    """The code of a frame of the server connection; -1 when it is too short for one."""
    return int(_length.unpack_from(frame, 4)[0]) if len(frame) >= 8 else -1


def inner_of_distributed(frame: bytes) -> bytes:
    """The distributed message in an embedded message from a parent, as a frame of its own.

    SoulseekQt passes the server's message on as it is, its code four bytes long; older Nicotine+ writes one byte.
    """
    return _framed(frame[8:] if frame[5:8] == b"\0\0\0" else frame[5:])


def inner_of_server(frame: bytes) -> bytes:
    """The distributed message in an embedded message from the server, as a frame of its own."""
    return _framed(frame[_SERVER_INNER:])


def _framed(message: bytes) -> bytes:
    return _length.pack(len(message)) + message


def parse_distributed(frame: bytes) -> Search | None:
    """Reads a distributed search (code 3); None when its lengths do not fit."""
    return _parse(frame, _DISTRIBUTED_STRINGS)


def parse_addressed(frame: bytes) -> Search | None:
    """Reads the server's `FileSearch` (code 26); None when its lengths do not fit."""
    return _parse(frame, _ADDRESSED_STRINGS)


def _parse(frame: bytes, start: int) -> Search | None:
    try:
        name_start = start + 4
        name_end = name_start + _length.unpack_from(frame, start)[0]
        ticket, query_length = _ticket_and_length.unpack_from(frame, name_end)
    except struct.error:
        return None
    query_start = name_end + 8
    query_end = query_start + query_length
    if query_end > len(frame):
        return None
    name, query = frame[name_start:name_end], frame[query_start:query_end]
    try:
        return name.decode(), ticket, query.decode(), 0
    except UnicodeDecodeError:
        return decode(name), ticket, decode(query), int(Flag.NOT_UTF8)


def decode(raw: bytes) -> str:
    """A string of the network: UTF-8, else Windows-1252, else ISO-8859-1, which reads anything.

    aioslsk stops at the second and loses the whole search with it.
    """
    for encoding in ("utf-8", "cp1252"):
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError:
            continue
    return raw.decode("iso-8859-1")
