"""A place where archives lie: a folder, or an object store. What is above it does not know which."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import BinaryIO, Protocol


class Writer(Protocol):
    """A file that is being written."""

    def write(self, data: bytes | bytearray | memoryview, /) -> object:
        """Append."""


class Destination(ABC):
    """One place. All methods block, may be called from any thread, and take names relative to it with `/` in them.

    Whatever goes wrong is raised as ArchiveError (ArchiveBusyError where it may go away by itself), in a line that
    names the place and holds no secret.

    Attributes:
        url: The place in words that hold no secret; the catalogue knows it by these.
    """

    url: str

    @abstractmethod
    def create(self, name: str) -> AbstractContextManager[Writer]:
        """Write a file, which appears under its name, whole and durable, only when the context ends without an error.

        A file of that name is replaced; until then it stays as it was. What an earlier attempt at the same name left
        behind when it was killed is removed.
        """

    @abstractmethod
    def open(self, name: str) -> BinaryIO:
        """Open a file for reading and seeking."""

    @abstractmethod
    def size(self, name: str) -> int | None:
        """Bytes of a file; None when there is none."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Remove a file, durably; nothing happens when there is none."""

    @abstractmethod
    def names(self) -> Iterator[str]:
        """All files, in order; not what is still being written."""

    @abstractmethod
    def check(self) -> None:
        """Find out whether files can be written here, before hours of work; makes the folder where there is none."""

    def read(self, name: str) -> bytes:
        """Return the whole of a small file."""
        with self.open(name) as file:
            return file.read()

    def write(self, name: str, data: bytes) -> None:
        """Write the whole of a small file; as with `create` it appears whole or not at all."""
        with self.create(name) as file:
            file.write(data)
