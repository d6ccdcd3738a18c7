"""PostgreSQL without installing it: started by the first process of a user that needs it, stopped after the last."""

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.parse
from pathlib import Path
from types import TracebackType
from typing import Any

import platformdirs

from soulseek_research.storage import cluster, embedded_watcher, postgres_binaries
from soulseek_research.storage.embedded_watcher import is_locked, try_lock
from soulseek_research.storage.errors import StorageError

DATABASE = "soulseek_research"
# Recovery after a crash replays at most max_wal_size; a server that cannot start is noticed at once.
START_SECONDS = 300.0
_TRIES = 3
_POLL_SECONDS = 0.01
_LITTLE_SPACE_BYTES = 32_000_000  # two files of its write-ahead log
_ROOT_DATA_DIR = Path("/var/lib/soulseek-research/postgres")
_CREATE_DATABASE = (
    f"SELECT 'CREATE DATABASE {DATABASE}' "  # noqa: S608 - a constant of ours
    f"WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = '{DATABASE}') \\gexec"
)


def default_data_dir() -> Path:
    """Where the data of the embedded server lives when nothing else is said."""
    folder = platformdirs.user_data_path("soulseek-research") / "postgres"
    if os.geteuid() == 0 and postgres_binaries.blocked_folder(cluster.SERVER_USERS[0], folder):
        return _ROOT_DATA_DIR
    return folder


class EmbeddedServer:
    """One user's hold on the server of a data folder, which all processes that name this folder share.

    Example:
        with EmbeddedServer(default_data_dir()) as dsn:
            connection = await asyncpg.connect(dsn)
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir.expanduser().resolve()
        self._hold: int | None = None
        self._server_lock = self._data_dir / embedded_watcher.SERVER_LOCK
        self._watcher_lock = self._data_dir / embedded_watcher.WATCHER_LOCK
        self._order: dict[str, Any] = {}  # for the watcher: which server, and how to start it

    def __enter__(self) -> str:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def start(self) -> str:
        """Make sure that the server runs, and runs as long as this process holds it.

        May be called again at any time, as when a connection was lost; costs some 10 ms when the server is up. Blocks.

        Returns:
            A DSN for asyncpg, psql and everything else on libpq. It holds no secret.

        Raises:
            StorageError: when the server cannot be started.
        """
        held = self._hold is not None
        try:
            return self._start()
        except BaseException as error:
            if not held:
                self._let_go()
            if isinstance(error, OSError):
                raise StorageError(f"cannot start PostgreSQL in {self._data_dir}: {error}") from error
            raise

    def release(self, *, wait: bool = False) -> None:
        """Leave the server; it stops within a second after the last one left.

        Args:
            wait: return only when it has stopped, or when others still use it.
        """
        if self._hold is None:
            return
        self._let_go()
        with contextlib.suppress(FileNotFoundError):  # the folder was removed
            while is_locked(self._server_lock) or is_locked(self._watcher_lock):
                if is_locked(self._server_lock):
                    self._watch()  # the watcher may have been killed: then the server would be orphaned
                if not wait or self._is_used():
                    return
                time.sleep(_POLL_SECONDS)

    def _start(self) -> str:
        deadline = time.monotonic() + START_SECONDS
        self._make_folder()
        if self._hold is None:
            # While the last server of this folder is being stopped, its watcher does not let us in.
            self._hold = self._wait_for_lock(embedded_watcher.USERS_LOCK, fcntl.LOCK_SH, deadline)
        only_one = self._wait_for_lock(embedded_watcher.START_LOCK, fcntl.LOCK_EX, deadline)
        try:
            cluster.check_version(self._data_dir)
            self._prepare(only_one)
            sockets = self._bring_up(deadline)
        finally:
            os.close(only_one)
        return _dsn(sockets, DATABASE)

    def _make_folder(self) -> None:
        missing = [folder for folder in (self._data_dir, *self._data_dir.parents) if not folder.exists()]
        for folder in reversed(missing):
            with contextlib.suppress(FileExistsError):
                folder.mkdir(mode=0o700)
                if os.geteuid() == 0:
                    folder.chmod(0o711)  # whatever the umask: the server, another user, must reach its cluster

    def _prepare(self, only_one: int) -> None:
        """Make what is missing of the data folder, and know how to start the server in it."""
        account = cluster.account_for(self._data_dir)
        programs = postgres_binaries.find()
        if account.user is not None:
            blocked = postgres_binaries.blocked_folder(account.user, self._data_dir)
            if blocked is not None:
                raise StorageError(
                    f"started by root, PostgreSQL runs as user id {account.user}, which may not enter {blocked}: "
                    "choose a data folder elsewhere, or allow it with chmod o+x",
                )
            programs = postgres_binaries.readable_by(account.user, programs, self._data_dir / "programs")
        cluster.write_access_rules(self._data_dir)
        if not (self._data_dir / embedded_watcher.CLUSTER).exists():
            cluster.create(self._data_dir, programs / "bin/initdb", account, [only_one])
        sockets = cluster.socket_folder(self._data_dir, account)
        command = cluster.command(self._data_dir, programs / "bin/postgres", sockets)
        folders = {"data_dir": str(self._data_dir), "sockets": str(sockets)}
        self._order = {**folders, "command": command, "account": account.process}

    def _bring_up(self, deadline: float) -> Path:
        """Wait until the server takes connections, starting what is not there; returns the folder of its socket."""
        log = self._data_dir / embedded_watcher.LOG
        before = log.stat().st_size if log.exists() else 0
        tries = 0
        while time.monotonic() < deadline:
            found_running = is_locked(self._server_lock)
            if self._watch():
                # Each watcher that goes leaves the place to another: it could not start the server, or was killed.
                # A server that was found running may have been on its way out: that was not a try.
                tries += not found_running
                if tries > _TRIES:
                    break
            sockets = embedded_watcher.ready_sockets(self._data_dir)
            if sockets is not None and self._has_database(sockets):
                return sockets
            time.sleep(_POLL_SECONDS)
        output = log.read_bytes()
        said = cluster.telling_line(output[before if before <= len(output) else 0 :])
        if shutil.disk_usage(self._data_dir).free < _LITTLE_SPACE_BYTES:
            said = f"the disk is full; {said}"  # so full, maybe, that it could not say so
        raise StorageError(f"PostgreSQL does not start: {said} (see {log})")

    def _watch(self) -> bool:
        """Start a watcher unless one is there; it starts the server unless that is there. Returns whether it did."""
        lock = try_lock(self._watcher_lock)
        if lock is None:
            return False
        order = json.dumps({**self._order, "lock": lock})
        log = embedded_watcher.open_log(self._data_dir)
        try:
            subprocess.run(
                [sys.executable, "-I", "-S", "-X", "utf8", embedded_watcher.__file__, order],
                cwd="/",
                # No secret of ours shall stand in /proc as long as the server lives. Some Pythons need the first.
                env={name: os.environ[name] for name in ("LD_LIBRARY_PATH", "PATH") if name in os.environ},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[lock],
                start_new_session=True,  # a Ctrl-C in our terminal is not for the server
                check=False,  # whether it lives is told by its lock
            )
        finally:
            os.close(log)
            os.close(lock)
        return True

    def _has_database(self, sockets: Path) -> bool:
        """Connect and make the database if it is missing; False when the server has just gone away."""
        done = subprocess.run(
            [postgres_binaries.find() / "bin/psql", "-XqAt", "-v", "ON_ERROR_STOP=1", _dsn(sockets, "postgres")],
            input=_CREATE_DATABASE,
            env={**embedded_watcher.CLEAN_ENVIRONMENT, "PGCONNECT_TIMEOUT": "30"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode and embedded_watcher.ready_sockets(self._data_dir) is not None:
            said = cluster.telling_line(done.stderr.encode())
            raise StorageError(f"PostgreSQL in {self._data_dir} does not let us in: {said}")
        return done.returncode == 0

    def _wait_for_lock(self, name: str, kind: int, deadline: float) -> int:
        while (lock := try_lock(self._data_dir / name, kind)) is None:
            if time.monotonic() > deadline:
                raise StorageError(f"another process has kept {self._data_dir / name} for {START_SECONDS:.0f} seconds")
            time.sleep(_POLL_SECONDS)
        return lock

    def _is_used(self) -> bool:
        """Whether others hold the server, rather than its watcher stopping it."""
        users = self._data_dir / embedded_watcher.USERS_LOCK
        alone = try_lock(users)
        shared = alone if alone is not None else try_lock(users, fcntl.LOCK_SH)
        if shared is not None:
            os.close(shared)
        return alone is None and shared is not None

    def _let_go(self) -> None:
        if self._hold is not None:
            os.close(self._hold)
            self._hold = None


def _dsn(sockets: Path, database: str) -> str:
    # The port is spelled out because PGPORT would change it. Without the user there, urllib would drop two slashes.
    query = urllib.parse.urlencode({"host": str(sockets), "port": cluster.PORT}, quote_via=urllib.parse.quote, safe="/")
    return f"postgresql://{cluster.SUPERUSER}@/{database}?{query}"
