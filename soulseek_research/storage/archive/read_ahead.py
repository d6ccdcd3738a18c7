"""Reads what lies far away as if it were a file: in large pieces, and the next one while this one is being used."""

import io
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

PIECE_BYTES = 8 * 2**20

Fetch = Callable[[int, int], memoryview]
"""Returns the bytes from the first position up to and without the second. Called from any thread."""


class ReadAhead(io.RawIOBase):
    """A file of a known size that is fetched in pieces; once two of them followed each other, a third is on its way.

    For who jumps about in it (a reader of Parquet) no more is fetched than was asked for.

    Args:
        fetch: Gets a piece.
        size: Bytes in all.
    """

    def __init__(self, fetch: Fetch, size: int) -> None:
        self._fetch = fetch
        self._size = size
        self._position = 0
        self._piece = memoryview(b"")
        self._start = 0  # of the piece
        self._coming: tuple[int, Future[memoryview]] | None = None
        self._thread: ThreadPoolExecutor | None = None

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Where it stands."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """See io.IOBase."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError("negative seek position")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any, /) -> int:
        """See io.RawIOBase; the bytes asked for tell how large a piece is worth fetching."""
        wanted = memoryview(buffer).cast("B")
        if not len(wanted) or self._position >= self._size:
            return 0
        if not self._start <= self._position < self._start + len(self._piece):
            self._turn_to(self._position, len(wanted))
        offset = self._position - self._start
        found = self._piece[offset : offset + len(wanted)]
        wanted[: len(found)] = found
        self._position += len(found)
        return len(found)

    def close(self) -> None:
        """Let everything go; a piece that is on its way is not waited for."""
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)
            self._thread = None
        self._coming = None
        self._piece = memoryview(b"")
        super().close()

    def _turn_to(self, start: int, wanted: int) -> None:
        goes_on = bool(self._piece) and start == self._start + len(self._piece)
        coming, self._coming = self._coming, None
        self._piece = memoryview(b"")  # not two of them at once
        if coming is not None and coming[0] == start:
            self._piece = coming[1].result()
        else:
            end = start + (max(wanted, PIECE_BYTES) if goes_on else wanted)
            self._piece = self._fetch(start, min(end, self._size))
        self._start = start
        following = start + len(self._piece)
        if goes_on and following < self._size:
            self._thread = self._thread or ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
            end = min(following + PIECE_BYTES, self._size)
            self._coming = (following, self._thread.submit(self._fetch, following, end))
