"""Archives in a folder of this machine, or of one that is mounted here."""

import contextlib
import errno
import io
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from soulseek_research.storage.archive import layout
from soulseek_research.storage.archive.destination import Destination, Writer
from soulseek_research.storage.archive.errors import ArchiveBusyError, ArchiveError

# A file that is being written: `.searches_2026-10.parquet.3f9c21d07ab4e5f6.unfinished`. The random middle keeps a run
# that was given up from writing into the file of the one that took its place.
UNFINISHED = ".unfinished"
BUFFER_BYTES = 2**20
# So often the disk is set to work, so that at the end it has little left to do and memory is not full of what waits.
FLUSH_BYTES = 16 * 2**20

_ENTER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# What ends by itself, on a network's file system say; a full disk does not.
_PASSING = {
    errno.EAGAIN, errno.EINTR, errno.EBUSY, errno.ETIMEDOUT, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM,
    errno.ENOTCONN, errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENETUNREACH, errno.ENETDOWN, errno.ECONNRESET,
}  # fmt: skip
_ADVICE = {
    errno.ENOSPC: "the disk is full: make room, or name another place with --archive",
    errno.EDQUOT: "this user's share of the disk is used up: make room, or name another place with --archive",
    errno.EACCES: "this user may not do that there: give it the right, or name another place with --archive",
    errno.EPERM: "this user may not do that there: give it the right, or name another place with --archive",
    errno.EROFS: "it can only be read: mount it for writing, or name another place with --archive",
    errno.ENOENT: "it is not there",
    errno.ENOTDIR: "a file or a link is in the way where a folder should be: move it away",
    errno.ELOOP: "a link is in the way, and archives are not written or read through links: move it away",
    errno.EISDIR: "a folder is in the way where a file should be: move it away",
    errno.EIO: "the disk fails",
}


class Folder(Destination):
    """A folder. What it makes there, only its owner may enter and read.

    Links are followed on the way to the folder, and no further: nothing beneath it leads elsewhere.
    """

    def __init__(self, path: Path) -> None:
        self.url = str(path)

    @contextlib.contextmanager
    def create(self, name: str) -> Iterator[Writer]:
        """See Destination."""
        *folders, last = layout.steps(name)
        with self._entered(folders, name, make=True) as folder:
            with self._told(name):
                _refuse_folder(folder, last)
                _remove_unfinished(folder, last)
                unfinished = f".{last}.{secrets.token_hex(8)}{UNFINISHED}"
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                file = _Written(os.open(unfinished, flags, 0o600, dir_fd=folder), self._path(name))
            try:
                with file:
                    yield file
                    file.settle()
                with self._told(name):
                    os.rename(unfinished, last, src_dir_fd=folder, dst_dir_fd=folder)
                    os.fsync(folder)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(unfinished, dir_fd=folder)
                raise

    def open(self, name: str) -> BinaryIO:
        """See Destination."""
        *folders, last = layout.steps(name)
        with self._entered(folders, name) as folder, self._told(name):
            # Not blocking: for a pipe under that name it would wait for ever.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            found = os.open(last, flags, dir_fd=folder)
            file = _Read(found, self._path(name))
            if not stat.S_ISREG(os.fstat(found).st_mode):
                file.close()
                raise OSError(errno.EISDIR, "not a file")
        # An io.BufferedReader does all that a BinaryIO does.
        return cast("BinaryIO", io.BufferedReader(file, BUFFER_BYTES))

    def size(self, name: str) -> int | None:
        """See Destination."""
        *folders, last = layout.steps(name)
        try:
            with self._entered(folders, name) as folder, self._told(name):
                found = os.stat(last, dir_fd=folder, follow_symlinks=False)
                _refuse_other_than_file(found)
                return found.st_size
        except ArchiveError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return None
            raise

    def delete(self, name: str) -> None:
        """See Destination."""
        *folders, last = layout.steps(name)
        try:
            with self._entered(folders, name) as folder, self._told(name):
                _remove_unfinished(folder, last)
                os.unlink(last, dir_fd=folder)
                os.fsync(folder)
        except ArchiveError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise

    def names(self) -> Iterator[str]:
        """See Destination."""
        found: list[str] = []
        with self._told():
            for folder, folders, files in os.walk(self.url, onerror=_unless_missing):
                folders[:] = [one for one in folders if not one.startswith(".")]
                visible = (Path(folder, one) for one in files if not one.startswith("."))
                found += [path.relative_to(self.url).as_posix() for path in visible if not path.is_symlink()]
        yield from sorted(found)

    def check(self) -> None:
        """See Destination."""
        with self._entered([], make=True) as folder, self._told():
            _remove_unfinished(folder, "probe")
            probe = f".probe.{secrets.token_hex(8)}{UNFINISHED}"
            os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder))
            os.unlink(probe, dir_fd=folder)

    @contextlib.contextmanager
    def _entered(self, folders: list[str], name: str = "", *, make: bool = False) -> Iterator[int]:
        """The folder in which a file stands, by descriptor: whatever is renamed meanwhile, it stays that one."""
        with contextlib.ExitStack() as opened:
            with self._told(name):
                if make:
                    _make_all(Path(self.url))
                folder = os.open(self.url, _ENTER)
                opened.callback(os.close, folder)
                for step in folders:
                    if make:
                        _make(step, folder)
                    folder = os.open(step, _ENTER | os.O_NOFOLLOW, dir_fd=folder)
                    opened.callback(os.close, folder)
            yield folder

    @contextlib.contextmanager
    def _told(self, name: str = "") -> Iterator[None]:
        """What goes wrong is told in a line for people."""
        try:
            yield
        except OSError as error:
            raise _explained(error, self._path(name)) from error

    def _path(self, name: str) -> str:
        return str(Path(self.url, name))


class _Written(io.FileIO):
    """A file that is being written; what goes wrong is told in a line for people."""

    def __init__(self, descriptor: int, path: str) -> None:
        super().__init__(descriptor, "wb")
        self._path = path
        self._waiting = 0  # bytes since the disk was set to work

    def write(self, data: Any, /) -> int:
        rest = memoryview(data).cast("B")
        written = len(rest)
        try:
            while rest:
                # A disk that is nearly full takes a part of it.
                rest = rest[super().write(rest) or 0 :]
            self._waiting += written
            if self._waiting >= FLUSH_BYTES:
                self._waiting = 0
                self._release()
        except OSError as error:
            raise _explained(error, self._path) from error
        return written

    def settle(self) -> None:
        """Bring it to the disk, and out of memory: who reads it back is to read what the disk holds."""
        try:
            os.fsync(self.fileno())
            self._release()
        except OSError as error:
            raise _explained(error, self._path) from error

    def _release(self) -> None:
        """What is on the disk leaves memory; what is not yet, Linux begins to write."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class _Read(io.FileIO):
    """A file that is being read; what goes wrong is told in a line for people."""

    def __init__(self, descriptor: int, path: str) -> None:
        super().__init__(descriptor, "rb")
        self._path = path

    def readinto(self, buffer: Any, /) -> int:
        try:
            return super().readinto(buffer) or 0
        except OSError as error:
            raise _explained(error, self._path) from error

    def readall(self) -> bytes:
        try:
            return super().readall() or b""
        except OSError as error:
            raise _explained(error, self._path) from error


def _explained(error: OSError, path: str) -> ArchiveError:
    reason = _ADVICE.get(error.errno or 0) or error.strerror or type(error).__name__
    return (ArchiveBusyError if error.errno in _PASSING else ArchiveError)(f"{path}: {reason}")


def _make_all(path: Path) -> None:
    """Make the place itself, and what leads there."""
    missing = [one for one in (path, *path.parents) if not one.exists()]
    for one in reversed(missing):
        with contextlib.suppress(FileExistsError):
            one.mkdir(0o700)
        _sync(one.parent)


def _make(step: str, folder: int) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkdir(step, 0o700, dir_fd=folder)
        os.fsync(folder)


def _sync(path: Path) -> None:
    folder = os.open(path, _ENTER)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _remove_unfinished(folder: int, last: str) -> None:
    """Remove what attempts at a file left behind when they were killed."""
    for entry in os.listdir(folder):
        if entry.startswith(f".{last}.") and entry.endswith(UNFINISHED):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(entry, dir_fd=folder)


def _refuse_folder(folder: int, last: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        _refuse_other_than_file(os.stat(last, dir_fd=folder, follow_symlinks=False))


def _refuse_other_than_file(found: os.stat_result) -> None:
    if stat.S_ISLNK(found.st_mode):
        raise OSError(errno.ELOOP, "a link")
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EISDIR, "not a file")


def _unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
