"""The data folder of an embedded PostgreSQL: whose it is, how it is made, with which settings it runs, who gets in."""

import contextlib
import errno
import hashlib
import os
import pwd
import re
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soulseek_research.storage import embedded_watcher, postgres_binaries
from soulseek_research.storage.errors import StorageError

SUPERUSER = "soulseek_research"
PORT = 5432
# User ids that neither Debian, Fedora nor systemd give to anyone, and that a container with 65,536 of them has.
SERVER_USERS = range(60578, 61184)
SOCKET_PATH_MAX_BYTES = 107  # sun_path, without its closing zero

# Written into postgresql.conf once, for people to change: a laptop that is written to all day and read now and then.
_TUNING = {
    "shared_buffers": "128MB",
    "huge_pages": "off",  # `try` ends in SIGBUS in containers whose host has them and whose limits do not
    "dynamic_shared_memory_type": "sysv",  # `posix` lives in /dev/shm, of which containers have 64 MB
    "max_connections": "100",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    "wal_compression": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
# Given at each start, because the rest relies on them.
_FIXED = {
    "listen_addresses": "",
    "port": str(PORT),
    "unix_socket_permissions": "0700",
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "logging_collector": "off",
    "log_destination": "stderr",
    "log_checkpoints": "off",
    # A failed statement, or the line of a COPY that failed, holds what somebody searched for.
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
}

_COMPLAINT = re.compile(r"(?:ERROR|FATAL|PANIC|error): +(.+)")


@dataclass(frozen=True)
class Account:
    """Who the server runs as: ourselves (`user` is None), or, because PostgreSQL refuses root, another user id."""

    user: int | None

    @property
    def process(self) -> dict[str, Any]:
        """Arguments for `subprocess` that start a process of this account."""
        return {} if self.user is None else {"user": self.user, "group": self.user, "extra_groups": []}

    def own(self, path: Path) -> None:
        """Give one file or folder to the account.

        Raises:
            StorageError: when root may not do that, as in a container without the rights of root.
        """
        if self.user is None:
            return
        try:
            os.chown(path, self.user, self.user, follow_symlinks=False)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EINVAL):
                raise
            raise StorageError(
                f"PostgreSQL refuses to run as root, and this root may not run it as user id {self.user}: "
                "start this as an ordinary user, or give a database URL",
            ) from error


def account_for(data_dir: Path) -> Account:
    """The account that the server in this folder runs as.

    As root this is a user id of its own, not `nobody`: whatever else runs as `nobody` could read our files, connect to
    our socket and kill our server. An account in /etc/passwd would be the administrator's to make, and is not needed:
    only `initdb` asks for a name (see `create`).

    Raises:
        StorageError: when the folder belongs to someone else.
    """
    cluster = data_dir / embedded_watcher.CLUSTER
    owner = cluster.stat().st_uid if cluster.exists() else None
    if os.geteuid() != 0:
        if owner not in (None, os.geteuid()):
            raise StorageError(_belongs(cluster, owner))
        return Account(None)
    if data_dir.stat().st_uid != 0:
        raise StorageError(_belongs(data_dir, data_dir.stat().st_uid))
    if owner is None:
        return Account(next(user for user in SERVER_USERS if not _name(user)))
    if owner not in SERVER_USERS:
        raise StorageError(_belongs(cluster, owner))
    return Account(owner)


def check_version(data_dir: Path) -> None:
    """Refuse a cluster of another major version.

    Raises:
        StorageError: saying how to bring the data over.
    """
    if (data_dir / "PG_VERSION").exists():
        raise StorageError(f"{data_dir} is the data folder of another PostgreSQL server: give a folder of our own")
    cluster = data_dir / embedded_watcher.CLUSTER
    if not cluster.exists():
        return
    file = cluster / "PG_VERSION"
    version = file.read_text().strip() if file.exists() else "of no known version"
    if version != str(postgres_binaries.MAJOR):
        raise StorageError(
            f"{cluster} holds data of PostgreSQL {version}, and this program brings {postgres_binaries.MAJOR}: dump it "
            f"with the pg_dump of {version} and restore it into a new folder, or give the URL of a server {version}",
        )


def create(data_dir: Path, initdb: Path, account: Account, keep_open: list[int]) -> None:
    """Make the cluster, beside its place first, so that there is never half of one.

    Args:
        data_dir: the folder to make it in.
        initdb: the program.
        account: whose it shall be.
        keep_open: locks that are held until initdb has ended, even when we are killed meanwhile.

    Raises:
        StorageError: when initdb fails.
    """
    unfinished = data_dir / f"{embedded_watcher.CLUSTER}.new"
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(unfinished)
    unfinished.mkdir(mode=0o700)
    # initdb wants a user with a name; postgres does not. So it runs as whoever is least, and the result changes hands.
    maker = account if account.user is None else Account(_least_user())
    maker.own(unfinished)
    command = [str(initdb), "-D", str(unfinished), "-U", SUPERUSER, "--auth=peer", "--no-instructions"]
    command += ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    command += ["--data-checksums", *(f"--set={name}={value}" for name, value in _TUNING.items())]
    done = subprocess.run(
        command,
        cwd="/",
        env=embedded_watcher.CLEAN_ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=keep_open,
        check=False,
        **maker.process,
    )
    if done.returncode:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise StorageError(f"cannot make a PostgreSQL data folder in {data_dir}: {telling_line(done.stdout)}")
    account.own(unfinished)  # first, so that nobody else can reach inside any more
    for place, folders, files in os.walk(unfinished):
        for name in folders + files:
            account.own(Path(place) / name)
    unfinished.rename(data_dir / embedded_watcher.CLUSTER)
    descriptor = os.open(data_dir, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def write_access_rules(data_dir: Path) -> None:
    """Let in the user that we are, and no one else.

    By `peer` the kernel tells the server who connects: no password lies around or stands in a DSN, and it works for
    root, whose server is another user. Written at each start, because users are renamed and folders move.

    Raises:
        StorageError: when our user has no name.
    """
    name = _name(os.geteuid())
    if name is None:
        raise StorageError(
            f"user id {os.geteuid()} has no name in /etc/passwd, and PostgreSQL needs one: add it, "
            "or give a database URL",
        )
    rules = {"pg_hba.conf": "local all all peer map=owner\n", "pg_ident.conf": f'owner "{name}" all\n'}
    for file, rule in ((data_dir / file, rule) for file, rule in rules.items()):
        if file.exists() and file.read_text(encoding="utf-8") == rule:
            continue
        unfinished = file.with_suffix(".new")
        unfinished.unlink(missing_ok=True)
        unfinished.write_text(rule, encoding="utf-8")
        unfinished.chmod(0o644)
        unfinished.replace(file)


def socket_folder(data_dir: Path, account: Account) -> Path:
    """The folder of the server's socket, made when missing: inside the data folder, or in /tmp where that is too long.

    Raises:
        StorageError: when someone else has taken the name in /tmp.
    """
    folder = data_dir / "socket"
    length = len(os.fsencode(folder)) + len(f"/.s.PGSQL.{PORT}")
    # A comma separates hosts in a DSN and folders in the setting.
    if length <= SOCKET_PATH_MAX_BYTES and str(folder).isprintable() and not {'"', ","} & set(str(folder)):
        folder.mkdir(mode=0o700, exist_ok=True)
        account.own(folder)
        return folder
    digest = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:12]
    folder = Path("/tmp", f"soulseek-research-{digest}")  # noqa: S108 - whose it is, is checked
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
        account.own(folder)
    status = folder.lstat()
    owner = os.geteuid() if account.user is None else account.user
    if not stat.S_ISDIR(status.st_mode) or status.st_mode & 0o077 or status.st_uid != owner:
        raise StorageError(f"{folder} has to be a folder that only user id {owner} may enter: remove it")
    return folder


def command(data_dir: Path, postgres: Path, sockets: Path) -> list[str]:
    """The command line of the server."""
    settings = {
        **_FIXED,
        "unix_socket_directories": f'"{sockets}"',
        "hba_file": str(data_dir / "pg_hba.conf"),
        "ident_file": str(data_dir / "pg_ident.conf"),
    }
    options = [f"{name}={value}" for name, value in settings.items()]
    return [str(postgres), "-D", str(data_dir / embedded_watcher.CLUSTER), *(f"-c{option}" for option in options)]


def telling_line(output: bytes) -> str:
    """What PostgreSQL's output says went wrong: the first complaint, since the others follow from it."""
    lines = [line.strip() for line in output.decode(errors="replace").splitlines() if line.strip()]
    for line in lines:
        complaint = _COMPLAINT.search(line)
        if complaint and "the database system is" not in line:  # said to whoever connects meanwhile
            return complaint[1]
    return lines[-1] if lines else "it said nothing"


def _least_user() -> int:
    try:
        return pwd.getpwnam("nobody").pw_uid
    except KeyError:
        others = [entry.pw_uid for entry in pwd.getpwall() if entry.pw_uid != 0]
    if not others:
        raise StorageError("this system knows no user besides root, and PostgreSQL refuses root: give a database URL")
    return max(others)


def _name(user: int) -> str | None:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return None


def _belongs(folder: Path, owner: int | None) -> str:
    who = "nobody" if owner is None else _name(owner) or f"user id {owner}"
    return f"{folder} belongs to {who}: run this as that user, or choose another data folder"
