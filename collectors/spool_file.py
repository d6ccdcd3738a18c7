"""The spool's file: how it is opened, guarded and locked, and what its failures are called.

SQLite in WAL mode: a commit is on the disk when it returns (`synchronous=FULL`), and reading never waits for writing.
"""

import contextlib
import fcntl
import functools
import os
import sqlite3
import stat
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from collectors.errors import CollectorError

SCHEMA_VERSION = 1
APPLICATION_ID = int.from_bytes(b"SlsR", "big")
"""Stands in the file's header, so that another program's SQLite file is not taken for a spool."""

PAGE_BYTES = 4096
WAL_PAGES = 1000
"""After so many pages (4 MB) the WAL is moved into the file, which takes some milliseconds."""
BUSY_SECONDS = 10.0
DAMAGED = "the file is damaged; move it away to begin a new one"


class SpoolError(CollectorError):
    """Something is wrong with the spool; the text is one line for people."""


class SpoolLocked(SpoolError):  # noqa: N818 - these are states of a spool
    """Another process holds this spool."""


class SpoolUnavailable(SpoolError):  # noqa: N818
    """The disk does not do what it should. Nothing was stored; trying again later may do."""


class SpoolFileDamaged(SpoolUnavailable):
    """SQLite lost its way in the file. What lies on other pages of it can still be read."""


class SpoolFull(SpoolError):  # noqa: N818
    """The spool has reached its size limit."""


@functools.cache
def sql(name: str) -> str:
    """The text of `sql/spool/<name>.sql`."""
    return resources.files("collectors").joinpath("sql", "spool", f"{name}.sql").read_text(encoding="utf-8")


class SpoolFile:
    """A connection to the spool, opened again by itself after a failure. For one thread at a time.

    Args:
        path: The file. Only the appending side makes it when it is missing.
        appends: Whether this connection appends: it alone waits for the disk at each commit and moves the WAL.

    Raises:
        SpoolError: It is missing, something else, or written by a newer version of this program.
    """

    def __init__(self, path: Path, *, appends: bool) -> None:
        self.path = path
        self._appends = appends
        self._connection: sqlite3.Connection | None = None
        with self._plain_failures():
            self._connection = self._connect()

    @contextlib.contextmanager
    def transaction(self, *, read_only: bool = False) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it or nothing.

        Raises:
            SpoolUnavailable: It could not be done; nothing of it was stored.
        """
        with self._plain_failures():
            if self._connection is None:
                self._connection = self._connect()
            connection = self._connection
            try:
                connection.execute("BEGIN" if read_only else "BEGIN IMMEDIATE")
                yield connection
                # There is nothing to commit after reading, and SQLite refuses to once it has met a damaged page.
                connection.execute("ROLLBACK" if read_only else "COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Close the connection; the last one to close moves the WAL into the file."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    @contextlib.contextmanager
    def _plain_failures(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            # A full disk or a busy file leaves the connection sound. After anything else only a new one is known to be:
            # the disk may have been taken away and brought back.
            if primary_code(error) not in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY}:
                self.close()
            kind = SpoolFileDamaged if primary_code(error) == sqlite3.SQLITE_CORRUPT else SpoolUnavailable
            raise kind(f"spool {self.path}: {_in_words(error)}") from error
        except OSError as error:
            raise SpoolUnavailable(f"spool {self.path}: {error.strerror}") from error
        except ValueError as error:  # a text or a uuid in it, or in SQLite's own message, that is none
            self.close()
            raise SpoolFileDamaged(f"spool {self.path}: {DAMAGED}") from error

    def _connect(self) -> sqlite3.Connection:
        if self._appends:
            _make_private(self.path)
        elif not self.path.exists():
            raise SpoolError(f"spool {self.path}: there is none")
        # BEGIN and COMMIT are ours. Any thread, because who opens it need not be who uses it.
        connection = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        is_empty = not connection.execute("SELECT EXISTS (SELECT 1 FROM sqlite_master)").fetchone()[0]
        if version > SCHEMA_VERSION and application == APPLICATION_ID:
            raise SpoolError(
                f"spool {self.path}: written by a newer version of this program "
                f"(its schema is {version}, this one knows {SCHEMA_VERSION})"
            )
        if is_empty and self._appends:
            self._make_schema(connection)
        elif application != APPLICATION_ID:
            raise SpoolError(f"spool {self.path}: this file is not a spool")
        # An acknowledgement that is lost is told again by the database: only appending waits for the disk.
        connection.execute(f"PRAGMA synchronous = {'FULL' if self._appends else 'NORMAL'}")
        connection.execute(f"PRAGMA wal_autocheckpoint = {WAL_PAGES if self._appends else 0}")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_PAGES * PAGE_BYTES}")
        # Some builds overwrite what is deleted, which doubles the writing; everything here is pseudonymous.
        connection.execute("PRAGMA secure_delete = OFF")

    def _make_schema(self, connection: sqlite3.Connection) -> None:
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        # A tenth more writing, for giving back the disk after a long outage.
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(
            f"BEGIN IMMEDIATE; {sql('schema')}; PRAGMA application_id = {APPLICATION_ID};"
            f"PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
        )
        _sync_folder(self.path.parent)


class SpoolLock:
    """The right to append to a spool: `flock` on a file beside it, which the kernel frees even after kill -9.

    Raises:
        SpoolLocked: Another process has it.
        SpoolUnavailable: The folder cannot be written to.
    """

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise SpoolUnavailable(f"spool {path}: cannot be made in {path.parent}: {error.strerror}") from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._descriptor, 0)
            os.write(self._descriptor, b"%d" % os.getpid())
        except BlockingIOError:
            holder = os.read(self._descriptor, 20).decode(errors="replace") or "unknown"
            os.close(self._descriptor)
            raise SpoolLocked(f"spool {path}: in use by another collector, process {holder}") from None

    def release(self) -> None:
        """Let others have it."""
        os.close(self._descriptor)


def as_number(value: Any) -> int:
    """A number that was stored; a damaged row may hold anything, which then is a SpoolFileDamaged."""
    if not isinstance(value, int):
        raise ValueError("not a number")  # noqa: TRY004 - about data, as those of a bad uuid or bad UTF-8
    return value


def primary_code(error: sqlite3.Error) -> int:
    """SQLite's result code, without its extension."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


def _make_private(path: Path) -> None:
    # An existing file is not opened here: closing any descriptor of it would free SQLite's own locks in this process.
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise SpoolError(f"spool {path}: not a file") from None
        if mode & 0o077:
            path.chmod(0o600)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _in_words(error: sqlite3.Error) -> str:
    return {
        sqlite3.SQLITE_FULL: "the disk is full",
        sqlite3.SQLITE_BUSY: "another process keeps it busy",
        sqlite3.SQLITE_NOTADB: "this file is not a spool",
        sqlite3.SQLITE_CORRUPT: DAMAGED,
        sqlite3.SQLITE_READONLY: "it may not be written to",
        sqlite3.SQLITE_CANTOPEN: "it cannot be opened",
    }.get(primary_code(error), str(error))
