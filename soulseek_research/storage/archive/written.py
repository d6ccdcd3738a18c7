"""A file that is being written: to one place or to several at once, and hashed as it goes."""

import hashlib
from collections.abc import Sequence

from soulseek_research.storage.archive.destination import Writer


class Written:
    """What a format's encoder writes to. Closing it is left to the places, which end it when all is well.

    Attributes:
        size: Bytes so far.
        closed: Arrow asks.
    """

    def __init__(self, writers: Sequence[Writer]) -> None:
        self._writers = writers
        self._digest = hashlib.sha256()
        self.size = 0
        self.closed = False

    @property
    def sha256(self) -> str:
        """Of what was written so far, in hex."""
        return self._digest.hexdigest()

    def write(self, data: bytes | bytearray | memoryview, /) -> int:
        """Append, in every place."""
        self._digest.update(data)
        self.size += len(data)
        for writer in self._writers:
            writer.write(data)
        return len(data)

    def flush(self) -> None:
        """Each place does so when it closes."""

    def close(self) -> None:
        """Arrow is done with it."""
        self.closed = True
