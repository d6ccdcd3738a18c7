"""What every place for archives does, whether it is a folder or an object store; then what only one of them can do."""

import contextlib
import functools
import gzip
import http.server
import io
import os
import random
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from soulseek_research.storage.archive import folder, object_store, places
from soulseek_research.storage.archive.destination import Destination, Writer
from soulseek_research.storage.archive.errors import ArchiveBusyError, ArchiveError, is_passing
from tests.s3_server import KEY, SECRET, S3Server

NAME = "2026/searches_2026-10.parquet"
BIG = random.Random(3).randbytes(9 * 2**20 + 17)  # of an upload, two pieces


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with S3Server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def bucket(s3: S3Server, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """URL of a bucket of the test's own."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    return s3.bucket(f"b{abs(hash(request.node.nodeid)):x}")


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path / "deep" / "archive")
    bucket: str = request.getfixturevalue("bucket")
    return f"{bucket}/pre/fix"


@pytest.fixture
def destination(place: str) -> Destination:
    return places.open_destination(place)


def test_a_file_is_read_as_it_was_written(destination: Destination) -> None:
    data = bytes(range(256)) * 5
    for content in (data, b"", BIG):
        with destination.create(NAME) as file:
            for piece in (content[:7], bytearray(content[7:9]), memoryview(content)[9:]):
                file.write(piece)
        assert destination.read(NAME) == content
        assert destination.size(NAME) == len(content)
    assert places.open_destination(destination.url).read(NAME) == BIG


def test_a_place_is_called_as_it_was_written(destination: Destination, place: str) -> None:
    assert destination.url == place


def test_a_file_appears_whole_or_not_at_all(destination: Destination) -> None:
    with destination.create(NAME) as file:
        file.write(BIG)
        assert destination.size(NAME) is None
        assert list(destination.names()) == []
        with pytest.raises(ArchiveError, match="it is not there"):
            destination.open(NAME)
    assert destination.size(NAME) == len(BIG)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
@pytest.mark.parametrize("written", [100, len(BIG)])
def test_an_error_leaves_what_was_there(destination: Destination, error: type[BaseException], written: int) -> None:
    destination.write(NAME, b"the old one")
    with pytest.raises(error, match="in the middle"):
        _fail(destination, written, error)
    assert destination.read(NAME) == b"the old one"
    destination.delete(NAME)
    with pytest.raises(error, match="in the middle"):
        _fail(destination, written, error)
    assert destination.size(NAME) is None
    assert list(destination.names()) == []


def _fail(destination: Destination, written: int, error: type[BaseException], look: Callable[[], None] = print) -> None:
    with destination.create(NAME) as file:
        file.write(BIG[:written])
        look()
        raise error("in the middle")


def test_a_file_is_replaced(destination: Destination) -> None:
    destination.write(NAME, b"the old one")
    destination.write(NAME, b"new")
    assert destination.read(NAME) == b"new"
    assert list(destination.names()) == [NAME]


def test_names_come_in_order_and_deleting_twice_is_no_error(destination: Destination) -> None:
    assert list(destination.names()) == []
    names = [f"{year}/searches_{year}-{month:02}.csv.zst" for year in (2027, 2026) for month in (10, 9, 1)]
    for name in [*names, "top.json"]:
        destination.write(name, b"x")
    assert list(destination.names()) == sorted([*names, "top.json"])
    for _ in range(2):
        destination.delete("top.json")
        destination.delete("2030/never.csv.gz")
    assert list(destination.names()) == sorted(names)


def test_reading_anywhere_in_a_file(destination: Destination) -> None:
    destination.write(NAME, BIG)
    where = random.Random(4)
    with destination.open(NAME) as file:
        assert file.seekable()
        assert file.readable()
        for _ in range(60):
            position, size = where.randrange(len(BIG) + 10), where.choice([0, 1, 100, 2**20, 2**20 + 1, 5 * 2**20])
            assert file.seek(position) == position
            assert file.read(size) == BIG[position : position + size]
            assert file.tell() == max(position, min(position + size, len(BIG)))
        assert file.seek(-8, os.SEEK_END) == len(BIG) - 8
        assert file.read() == BIG[-8:]
        assert file.read(1) == b""
        with pytest.raises((ValueError, OSError)):
            file.seek(-1)
        file.seek(0)
        assert b"".join(iter(functools.partial(file.read, 300_000), b"")) == BIG


def test_parquet_and_streams_read_it(destination: Destination) -> None:
    table = pa.table({"n": range(300_000), "text": [f"{n * n:x}" for n in range(300_000)]})
    with destination.create(NAME) as file:
        pq.write_table(table, _Arrow(file.write), row_group_size=50_000)
    destination.write("2026/a.csv.gz", gzip.compress(BIG[: 2**21], 1))
    with destination.open(NAME) as found:
        assert pq.read_table(found) == table
    with destination.open(NAME) as found:
        assert pq.ParquetFile(found).read_row_group(3, ["text"])["text"][0].as_py() == f"{150_000**2:x}"
    with destination.open("2026/a.csv.gz") as found, gzip.open(found) as unpacked:
        assert unpacked.read() == BIG[: 2**21]


class _Arrow(io.RawIOBase):
    """What Arrow wants to write to."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write

    def writable(self) -> bool:
        return True

    def write(self, data: bytes, /) -> int:  # type: ignore[override]
        self._write(data)
        return len(data)


def test_many_threads_at_once(destination: Destination) -> None:
    def work(number: int) -> bytes:
        name = f"2026/{number % 3}/{number}.json"
        destination.write(name, BIG[number:][: 2**20])
        return destination.read(name)

    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(work, range(18))) == [BIG[number:][: 2**20] for number in range(18)]


@pytest.mark.parametrize(
    "name", ["../out.parquet", "/etc/out.parquet", "2026/../../out.parquet", ".hidden", "a\0b", ""]
)
def test_no_name_leads_out(destination: Destination, name: str) -> None:
    for attempt in (destination.open, destination.size, destination.delete, destination.read):
        with pytest.raises(ArchiveError, match="not the name of an archive"):
            attempt(name)
    with pytest.raises(ArchiveError), destination.create(name):
        pass


def test_what_is_missing_is_named(destination: Destination, place: str) -> None:
    assert destination.size(NAME) is None
    with pytest.raises(ArchiveError) as missing:
        destination.open(NAME)
    assert str(missing.value) == f"{place}/{NAME}: it is not there"
    assert not is_passing(missing.value)


def test_a_place_that_takes_files_says_so_and_keeps_nothing_of_the_trial(destination: Destination) -> None:
    destination.check()
    destination.check()
    assert list(destination.names()) == []


@pytest.mark.parametrize(
    "place",
    [
        "",
        "  ",
        "ftp://host/x",
        "S3://bucket",
        "s3://",
        "s3:///x",
        "s3://b/../x",
        "s3://b/.x",
        "s3://b u",
        "s3://[",
        "a\0b",
    ],
)
def test_what_is_no_place(place: str) -> None:
    with pytest.raises(ArchiveError) as refusal:
        places.open_destination(place)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "place", ["s3://user:hunter2@bucket/x", "s3://bucket/x?secret=hunter2", "s3://bucket/x#hunter2", "s3://hunter2@/"]
)
def test_a_url_with_a_secret_is_refused_and_not_repeated(place: str) -> None:
    with pytest.raises(ArchiveError, match="by the environment") as refusal:
        places.open_destination(place)
    assert "hunter2" not in str(refusal.value)


def test_a_place_may_be_relative_or_in_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert places.open_destination("archive").url == str(tmp_path / "archive")
    assert places.open_destination("~/archive").url == "/home/somebody/archive"
    with pytest.raises(ArchiveError, match="no such user's home"):
        places.open_destination("~nobody-of-that-name/x")


# Folders.


@pytest.fixture
def archive(tmp_path: Path) -> folder.Folder:
    return folder.Folder(tmp_path / "archive")


def test_only_the_owner_may_read(archive: folder.Folder) -> None:
    before = os.umask(0)
    try:
        with archive.create(NAME) as file:
            file.write(b"x")
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in Path(archive.url).rglob("*")}
            assert modes.pop("2026") == 0o700
            assert set(modes.values()) == {0o600}
    finally:
        os.umask(before)
    assert stat.S_IMODE(Path(archive.url, NAME).stat().st_mode) == 0o600
    assert stat.S_IMODE(Path(archive.url).stat().st_mode) == 0o700


def test_a_folder_of_somebody_elses_making_keeps_its_rights(archive: folder.Folder) -> None:
    Path(archive.url).mkdir(0o750)
    archive.check()
    archive.write(NAME, b"x")
    assert stat.S_IMODE(Path(archive.url).stat().st_mode) == 0o750


KILLED = """
import sys, time
from soulseek_research.storage.archive import places
with places.open_destination(sys.argv[1]).create(sys.argv[2]) as file:
    file.write(b"x" * 100_000)
    print("written", flush=True)
    time.sleep(60)
"""


def test_what_a_killed_attempt_left_is_removed_by_the_next(archive: folder.Folder) -> None:
    archive.write("2026/other.parquet", b"other")
    with _writing(archive.url, NAME) as process:
        process.send_signal(signal.SIGKILL)
    left = [path.name for path in Path(archive.url, "2026").iterdir() if path.name != "other.parquet"]
    assert len(left) == 1
    assert left[0].startswith(f".{Path(NAME).name}.")
    assert left[0].endswith(".unfinished")
    assert list(archive.names()) == ["2026/other.parquet"]
    assert archive.size(NAME) is None

    archive.write("2026/searches_2026-10.parquet.manifest.json", b"{}")
    assert Path(archive.url, "2026", left[0]).exists(), "it is of another file"
    archive.write(NAME, b"whole")
    assert sorted(path.name for path in Path(archive.url, "2026").iterdir()) == sorted(
        ["other.parquet", Path(NAME).name, f"{Path(NAME).name}.manifest.json"]
    )


@contextlib.contextmanager
def _writing(place: str, name: str) -> Iterator[subprocess.Popen[str]]:
    """A process in the middle of writing a file; it has ended when the context has."""
    command = [sys.executable, "-c", KILLED, place, name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        yield process


def test_who_was_given_up_does_not_write_into_the_file_of_his_successor(archive: folder.Folder) -> None:
    given_up = archive.create(NAME)
    file = given_up.__enter__()
    file.write(b"old")
    archive.write(NAME, b"new")
    file.write(b"old")
    with pytest.raises(ArchiveError, match="it is not there"):
        given_up.__exit__(None, None, None)
    assert archive.read(NAME) == b"new"


def test_links_lead_nowhere(archive: folder.Folder, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "searches_2026-10.parquet").write_bytes(b"secret")
    archive.check()
    Path(archive.url, "2026").symlink_to(elsewhere)
    Path(archive.url, "2027").mkdir()
    Path(archive.url, "2027/linked.parquet").symlink_to(elsewhere / "searches_2026-10.parquet")
    for name in (NAME, "2027/linked.parquet"):
        for attempt in (archive.open, archive.size, archive.read):
            with pytest.raises(ArchiveError, match="link"):
                attempt(name)
        with pytest.raises(ArchiveError, match="link"), archive.create(name) as file:
            file.write(b"overwritten")
    with pytest.raises(ArchiveError, match="link"):
        archive.delete(NAME)
    assert list(archive.names()) == []
    assert [path.read_bytes() for path in elsewhere.iterdir()] == [b"secret"]


def test_the_archive_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "archive").symlink_to(tmp_path / "disk")
    archive = folder.Folder(tmp_path / "archive")
    archive.write(NAME, b"x")
    assert (tmp_path / "disk" / NAME).read_bytes() == b"x"
    assert list(archive.names()) == [NAME]


def test_what_is_in_the_way_is_named(archive: folder.Folder, tmp_path: Path) -> None:
    archive.check()
    Path(archive.url, NAME).mkdir(parents=True)
    Path(archive.url, "2027").write_bytes(b"a file")
    os.mkfifo(Path(archive.url, "2026/pipe"))
    for name, words in ((NAME, "a folder is in the way"), ("2027/x", "a file or a link"), ("2026/pipe", "in the way")):
        with pytest.raises(ArchiveError, match=words):
            archive.size(name)
        with pytest.raises(ArchiveError, match=words), archive.create(name):
            pass
        with pytest.raises(ArchiveError, match=words):
            archive.open(name)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ArchiveError, match="a file or a link is in the way"):
        folder.Folder(tmp_path / "file").check()


def test_a_full_disk_is_told_and_not_tried_again() -> None:
    written = folder._Written(os.open("/dev/full", os.O_WRONLY), "/srv/archive/x.parquet")
    with written, pytest.raises(ArchiveError, match=r"^/srv/archive/x\.parquet: the disk is full: make room") as full:
        written.write(b"x")
    assert not is_passing(full.value)


def test_a_folder_that_is_not_ours_is_told(archive: folder.Folder) -> None:
    archive.write(NAME, b"x")
    with _as_somebody_else(Path(archive.url)):
        for attempt in (
            archive.check,
            lambda: archive.write("2026/new.json", b"x"),
            lambda: archive.write("9/new", b""),
        ):
            with pytest.raises(ArchiveError, match="this user may not do that there") as refused:
                attempt()
            assert not is_passing(refused.value)
    assert list(archive.names()) == [NAME]


@contextlib.contextmanager
def _as_somebody_else(path: Path) -> Iterator[None]:
    """A user who may look and not write; root may everything, and has to become somebody else."""
    owned = [path, *path.rglob("*")]
    for one in owned:
        one.chmod(0o555)
    parents = [parent for parent in path.parents if parent.stat().st_uid == os.geteuid() and parent.name]
    modes = {parent: stat.S_IMODE(parent.stat().st_mode) for parent in parents}
    root = os.geteuid() == 0
    if root:
        for parent in parents:
            parent.chmod(modes[parent] | 0o011)
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
            for parent, mode in modes.items():
                parent.chmod(mode)
        for one in owned:
            one.chmod(0o700)


# Object stores.


def test_nothing_is_left_of_an_upload_that_failed(s3: S3Server, bucket: str) -> None:
    destination = places.open_destination(f"{bucket}/x")
    name = bucket.removeprefix("s3://")
    under_way: list[str] = []
    with pytest.raises(ValueError, match="in the middle"):
        _fail(destination, len(BIG), ValueError, lambda: under_way.extend(s3.uploads(name)))
    assert len(under_way) == 1
    assert s3.uploads(name) == []
    assert s3.keys(name) == []


def test_a_killed_upload_leaves_no_object_and_the_next_one_works(s3: S3Server, bucket: str) -> None:
    destination = places.open_destination(bucket)
    with _writing(bucket, NAME) as process:
        process.send_signal(signal.SIGKILL)
    assert s3.keys(bucket.removeprefix("s3://")) == []
    destination.write(NAME, b"whole")
    assert s3.keys(bucket.removeprefix("s3://")) == [NAME]


def test_a_prefix_is_not_left(s3: S3Server, bucket: str) -> None:
    places.open_destination(f"{bucket}/one/").write(NAME, b"1")
    places.open_destination(f"{bucket}/one2").write(NAME, b"2")
    assert list(places.open_destination(f"{bucket}/one").names()) == [NAME]
    assert s3.keys(bucket.removeprefix("s3://")) == [f"one/{NAME}", f"one2/{NAME}"]


def test_an_object_that_is_replaced_is_not_mixed_with_the_old_one(bucket: str) -> None:
    destination = places.open_destination(bucket)
    destination.write(NAME, BIG)
    with destination.open(NAME) as file:
        assert file.read(100) == BIG[:100]
        destination.write(NAME, bytes(len(BIG)))
        with pytest.raises(ArchiveBusyError, match="replaced while it was read"):
            file.read()


def test_a_bucket_that_is_not_there_is_told(bucket: str) -> None:
    destination = places.open_destination("s3://no-such-bucket/x")
    for attempt in (destination.check, lambda: list(destination.names()), lambda: destination.write(NAME, b"x")):
        with pytest.raises(
            ArchiveError, match=r"^s3://no-such-bucket/x.*: there is no such bucket: make it"
        ) as refused:
            attempt()
        assert not is_passing(refused.value)


def test_a_store_that_goes_away_may_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "RETRIES", 1)
    with S3Server(tmp_path) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        destination = places.open_destination(server.bucket("archive"))
        destination.write(NAME, BIG)
        with destination.open(NAME) as found:
            assert found.read(10) == BIG[:10]
            lost = destination.create("2026/lost")
            file = lost.__enter__()
            file.write(BIG[: 2**20])
            server.kill()
            with pytest.raises(ArchiveBusyError, match="2026/lost"):
                _finish(lost, file)
            with pytest.raises(ArchiveBusyError):
                found.read()
    for attempt in (destination.check, lambda: destination.size(NAME), lambda: list(destination.names())):
        with pytest.raises(ArchiveBusyError, match=r"^s3://archive.* cannot be reached") as away:
            attempt()
        assert is_passing(away.value)
        assert "\n" not in str(away.value)


def _finish(upload: contextlib.AbstractContextManager[Writer], file: Writer) -> None:
    try:
        file.write(BIG)
    except ArchiveError as error:
        upload.__exit__(type(error), error, None)
        raise
    upload.__exit__(None, None, None)


@contextlib.contextmanager
def _answering(status: int, code: str) -> Iterator[str]:
    """A store that answers everything with an error which repeats what it was told; yields its URL."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = f"<Error><Code>{code}</Code><AWSAccessKeyId>{KEY}</AWSAccessKeyId></Error>".encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_PUT = do_POST = do_HEAD = do_DELETE = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("status", "code", "passing", "words"),
    [
        (403, "SignatureDoesNotMatch", False, "refuses access"),
        (401, "InvalidToken", False, "refuses access"),
        (400, "InvalidRequest", False, "the store refuses this"),
        (503, "SlowDown", True, "answers with an error"),
        (500, "InternalError", True, "answers with an error"),
    ],
)
def test_a_refusal_is_told_without_what_the_store_repeats(
    monkeypatch: pytest.MonkeyPatch, status: int, code: str, passing: bool, words: str
) -> None:
    monkeypatch.setattr(object_store, "RETRIES", 0)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    with _answering(status, code) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        destination = places.open_destination("s3://archive/x")
        for attempt in (
            destination.check,
            lambda: destination.write(NAME, b"x"),
            lambda: destination.write(NAME, BIG),
            lambda: destination.size(NAME),
            lambda: destination.open(NAME),
            lambda: list(destination.names()),
            lambda: destination.delete(NAME),
        ):
            with pytest.raises(ArchiveError, match=rf"^s3://archive/x.*{words}.*HTTP {status}") as refused:
                attempt()
            assert is_passing(refused.value) is passing
            assert not any(secret in repr(refused.value) for secret in (KEY, SECRET, "\n"))
            assert refused.value.__cause__ is None


def test_without_credentials_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "RETRIES", 0)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    with _answering(403, "Forbidden") as url:
        # What a machine in Amazon's cloud would be asked.
        monkeypatch.setenv("AWS_METADATA_ENDPOINT", url)
        with pytest.raises(ArchiveError, match="no credentials were found: set AWS_ACCESS_KEY_ID") as refused:
            places.open_destination("s3://archive").check()
    assert not is_passing(refused.value)


@pytest.mark.parametrize("endpoint", ["nonsense", "http://", "ftp://host", "key:hunter2@host"])
def test_an_endpoint_that_is_none_is_told(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    with pytest.raises(ArchiveError, match="AWS_ENDPOINT_URL is malformed: write https://HOST:PORT") as refused:
        places.open_destination("s3://archive/x")
    assert "hunter2" not in str(refused.value)


def test_reading_on_is_ahead_of_the_reader() -> None:
    asked: list[tuple[int, int]] = []
    data = bytes(3 * 2**20) + bytes(range(256)) * 4096 * 12

    def fetch(start: int, end: int) -> memoryview:
        asked.append((start, end))
        return memoryview(data)[start:end]

    with io.BufferedReader(object_store.ReadAhead(fetch, len(data)), 2**20) as file:
        assert b"".join(iter(functools.partial(file.read, 2**18), b"")) == data
    assert [start for start, _ in asked[1:]] == [end for _, end in asked[:-1]], "each byte once, in order"
    asked.clear()
    with io.BufferedReader(object_store.ReadAhead(fetch, len(data)), 2**20) as file:
        for start in (0, 9 * 2**20, 2**20):
            file.seek(start)
            file.read(2**20)
        time.sleep(0.05)
    assert sum(end - start for start, end in asked) == 3 * 2**20, "no more than was asked for"
