"""Keep an embedded PostgreSQL up as long as anyone uses it, and stop it after the last.

A process of its own, so that it outlives whoever started it; run by path with the standard library alone, because it
lives as long as the server and should weigh little.

Who is there is told by `flock` locks in the data folder: the kernel frees them however a process ends, and a number in
a stale `postmaster.pid` proves nothing, since it may belong to someone else by now.

- `users.lock`, shared: one for each user of the server.
- `server.lock`, exclusive: inherited by postgres and all that it forks, so it is free only when none of them lives.
- `watcher.lock`, exclusive: the watcher's own, taken for it by whoever starts it.
- `start.lock`, exclusive: whoever prepares the folder and starts a watcher.
"""

import contextlib
import fcntl
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

USERS_LOCK = "users.lock"
SERVER_LOCK = "server.lock"
WATCHER_LOCK = "watcher.lock"
START_LOCK = "start.lock"
CLUSTER = "cluster"
PID_FILE = "postmaster.pid"
LOG = "server.log"
# Nothing of the user's locale, libpq settings or library paths may reach PostgreSQL's programs.
CLEAN_ENVIRONMENT = {"LC_ALL": "C", "PATH": "/usr/bin:/bin"}

POLL_SECONDS = 0.25
RESTART_PAUSE_MAX_SECONDS = 10.0
STABLE_SECONDS = 60.0
LOG_MAX_BYTES = 1_000_000
FAST_SHUTDOWN_SECONDS = 120.0
IMMEDIATE_SHUTDOWN_SECONDS = 10.0


def try_lock(path: Path, kind: int = fcntl.LOCK_EX) -> int | None:
    """Take a lock without waiting.

    Args:
        path: the lock file, made when missing.
        kind: `fcntl.LOCK_EX` or `fcntl.LOCK_SH`.

    Returns:
        The descriptor whose closing gives the lock back, or None when others hold it.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        if is_at(descriptor, path):
            return descriptor
        os.close(descriptor)  # it was deleted, and made anew, before we had it: then it excludes nobody


def is_at(descriptor: int, path: Path) -> bool:
    """Whether the open file is the one that is found there now."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def is_locked(path: Path) -> bool:
    """Whether anyone holds the lock for itself; asking is not seen by others who ask."""
    descriptor = try_lock(path, fcntl.LOCK_SH)
    if descriptor is not None:
        os.close(descriptor)
    return descriptor is None


def open_log(data_dir: Path) -> int:
    """A descriptor to write to the end of the server's log."""
    return os.open(data_dir / LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def postmaster(data_dir: Path) -> int | None:
    """The process id of the postmaster on the cluster, or None when `postmaster.pid` is missing or stale."""
    cluster = data_dir / CLUSTER
    try:
        pid = int((cluster / PID_FILE).read_bytes().split(b"\n", 1)[0])
        # Readable for all, where /proc/<pid>/cwd asks root for CAP_SYS_PTRACE, which containers lack.
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    if arguments[1:3] == [b"-D", os.fsencode(cluster)]:
        return pid
    # One that somebody started by hand may name its folder in another way.
    with contextlib.suppress(OSError):
        if Path(f"/proc/{pid}/exe").readlink().name == "postgres" and Path(f"/proc/{pid}/cwd").samefile(cluster):
            return pid
    return None


def ready_sockets(data_dir: Path) -> Path | None:
    """The folder of the socket on which the server takes connections, or None when it does not (yet)."""
    with contextlib.suppress(OSError, IndexError):
        lines = os.fsdecode((data_dir / CLUSTER / PID_FILE).read_bytes()).splitlines()
        if lines[7].startswith("ready") and is_locked(data_dir / SERVER_LOCK) and postmaster(data_dir) is not None:
            return Path(lines[4])
    return None


class Watcher:
    """One server, and whether it is still used.

    Args:
        data_dir: the folder with the cluster, the locks and the log.
        sockets: the folder of the server's socket.
        command: the command line that starts the server.
        account: arguments for `subprocess` that say as whom.
        lock: the descriptor of `watcher.lock`, held.
    """

    def __init__(self, data_dir: Path, sockets: Path, command: list[str], account: dict[str, Any], lock: int) -> None:
        self.data_dir = data_dir
        self.sockets = sockets
        self.command = command
        self.account = account
        self.lock = lock
        self.child: subprocess.Popen[bytes] | None = None
        self.started_at = -math.inf
        self.pause = POLL_SECONDS

    def run(self) -> None:
        """Keep the server up until the last user leaves, or until someone stops it."""
        found = False
        while is_at(self.lock, self.data_dir / WATCHER_LOCK):
            # Kept while stopping: whoever comes in the meantime waits, and then starts it anew.
            last_one_left = try_lock(self.data_dir / USERS_LOCK)
            if last_one_left is not None:
                self.stop()
                return
            if not is_locked(self.data_dir / SERVER_LOCK):
                # A server that was asked to stop, or could not start, removes its pid file; one that crashed does not.
                if found and not (self.data_dir / CLUSTER / PID_FILE).exists():
                    return
                if postmaster(self.data_dir) is not None:
                    self.log("FATAL:  another PostgreSQL, started by hand, runs on this folder: stop it first")
                    return
                if time.monotonic() > self.started_at + self.pause:
                    self.start()
            found = True
            self.rotate_log()
            time.sleep(POLL_SECONDS)
        self.abandon()

    def start(self) -> None:
        """Start the server; after a crash, more slowly each time."""
        was_stable = time.monotonic() - self.started_at > STABLE_SECONDS
        self.pause = POLL_SECONDS if was_stable else min(2 * self.pause, RESTART_PAUSE_MAX_SECONDS)
        self.started_at = time.monotonic()
        if self.child is not None:
            self.child.wait()
        lock = self.wait_for_server_lock()
        self.remove_stale_files()
        log = open_log(self.data_dir)
        try:
            self.child = subprocess.Popen(
                self.command,
                cwd="/",
                env=CLEAN_ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[lock],  # inherited by all that the server forks
                **self.account,
            )
        except OSError as error:
            self.log(f"FATAL:  cannot run {self.command[0]}: {error.strerror}")
        finally:
            os.close(log)
            os.close(lock)

    def wait_for_server_lock(self) -> int:
        """Take the lock, which others hold for the moment of asking at most."""
        while (lock := try_lock(self.data_dir / SERVER_LOCK)) is None:
            time.sleep(0.001)
        return lock

    def remove_stale_files(self) -> None:
        """Remove what a crashed server left: PostgreSQL refuses to start when the process id in there is taken again.

        In containers it soon is.
        """
        for file in (self.data_dir / CLUSTER / PID_FILE, *self.sockets.glob(".s.PGSQL.*.lock")):
            file.unlink(missing_ok=True)

    def stop(self) -> None:
        """Stop the server: fast, or if that takes too long, at once (the next start recovers)."""
        self.signal_until(signal.SIGINT, FAST_SHUTDOWN_SECONDS)
        self.signal_until(signal.SIGQUIT, IMMEDIATE_SHUTDOWN_SECONDS)
        if self.sockets.parent != self.data_dir:
            with contextlib.suppress(OSError):
                self.sockets.rmdir()

    def signal_until(self, number: signal.Signals, seconds: float) -> None:
        """Send the signal to the server until no process of it lives, but no longer than that."""
        deadline = time.monotonic() + seconds
        next_signal = 0.0  # again and again, because one that has only just been started does not hear it yet
        while is_locked(self.data_dir / SERVER_LOCK) and time.monotonic() < deadline:
            if time.monotonic() > next_signal:
                next_signal = time.monotonic() + 1
                pid = postmaster(self.data_dir) if self.child is None else self.child.pid
                if pid is not None and (self.child is None or self.child.poll() is None):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
            time.sleep(0.02)

    def abandon(self) -> None:
        """Kill a server that nobody can use any more: its folder was removed, and another may be in its place."""
        if self.child is not None and self.child.poll() is None:
            self.child.send_signal(signal.SIGQUIT)

    def log(self, line: str) -> None:
        """Say something where the server does."""
        descriptor = open_log(self.data_dir)
        os.write(descriptor, f"{line}\n".encode())
        os.close(descriptor)

    def rotate_log(self) -> None:
        """Bound the log to two files; it is copied and emptied because the server keeps it open (O_APPEND)."""
        log = self.data_dir / LOG
        with contextlib.suppress(OSError):  # a full disk is no reason to leave the server alone
            if log.stat().st_size > LOG_MAX_BYTES:
                try:
                    shutil.copyfile(log, log.with_suffix(".log.1"))
                finally:
                    os.truncate(log, 0)


def main(order: str) -> NoReturn:
    """Detach and watch; the order is a JSON object of the Watcher's arguments."""
    if os.fork():
        os._exit(0)  # so that the watcher is nobody's child: nobody has to reap it
    os.chdir("/")
    os.umask(0o077)
    # It goes when the users go; until then a signal to the whole machine must not orphan the server.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    place = json.loads(order)
    folders = Path(place["data_dir"]), Path(place["sockets"])
    watcher = Watcher(*folders, place["command"], place["account"], place["lock"])
    try:
        watcher.run()
    except FileNotFoundError:
        watcher.abandon()
    sys.exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
