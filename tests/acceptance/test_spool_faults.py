"""What happens to the spool when its process, its file or its disk fails."""

import contextlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from collectors.search import Row
from collectors.spool import Spool, SpoolError, SpoolFull, SpoolReader, SpoolUnavailable
from tests.appending import searches_at

KILLS = 20
ROW: Row = (1_790_000_000_000, 7, 1, 0, "abcdefgh." + "A" * 51, "aphex twin selected ambient wo")
MIB = 2**20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool" / "eu.sqlite"


@contextlib.contextmanager
def appending(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-m", "tests.appending", str(path)], stdout=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def first_lines(process: subprocess.Popen[bytes], count: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline().decode() for _ in range(count)]


def read_all(spool: SpoolReader, segment_id: uuid.UUID) -> list[tuple[int, list[Row]]]:
    """All chunks of a segment, each of which must be whole."""
    found: list[tuple[int, list[Row]]] = []
    while chunks := spool.read(segment_id, len(found), 10_000):
        for chunk in chunks:
            assert (chunk.damage, chunk.ledger) == (None, {"position": chunk.position})
            found.append((chunk.position, chunk.rows))
    return found


def snapshot(path: Path, into: Path) -> Path:
    """What a power cut or a copied machine leaves: the file and its WAL, as they lie there."""
    into.mkdir()
    for file in (path, Path(f"{path}-wal")):
        if file.exists():
            shutil.copyfile(file, into / file.name)
    return into / path.name


def test_kill_9_loses_nothing_that_was_reported_as_appended(path: Path) -> None:
    told: dict[str, int] = {}
    for _ in range(KILLS):
        with appending(path) as process:
            lines = first_lines(process, 1)
            time.sleep(random.uniform(0, 0.15))
            process.kill()
            assert process.stdout is not None
            lines += process.stdout.read().decode().splitlines(keepends=True)
        whole = [line.split() for line in lines if line.endswith("\n")]
        told[whole[-1][0]] = int(whole[-1][1])
    with Spool(path) as spool:
        states = spool.segments()
        assert [str(state.segment_id) for state in states] == list(told)
        for state in states:
            # The kill may fall between the commit and the report.
            assert 0 <= state.last_position - told[str(state.segment_id)] <= 1
            assert read_all(spool, state.segment_id) == [
                (position, searches_at(position)) for position in range(1, state.last_position + 1)
            ]


def test_a_snapshot_of_the_disk_holds_all_that_was_reported_until_then(path: Path, tmp_path: Path) -> None:
    with appending(path) as process:
        for attempt in range(3):
            segment_id, told = first_lines(process, 50)[-1].split()
            process.send_signal(signal.SIGSTOP)
            copied = snapshot(path, tmp_path / f"copy {attempt}")
            process.send_signal(signal.SIGCONT)
            with Spool(copied) as spool:
                assert len(read_all(spool, uuid.UUID(segment_id))) >= int(told)


def test_a_truncated_wal_costs_its_end_and_leaves_no_holes(path: Path, tmp_path: Path) -> None:
    with Spool(path) as spool:
        segment_id = spool.open_segment().segment_id
        for position in range(1, 101):
            spool.append(searches_at(position), {"position": position}, position)
        copied = snapshot(path, tmp_path / "copy")
    wal = Path(f"{copied}-wal").read_bytes()
    assert len(wal) > 100_000
    lengths = []
    for size in [0, 1, 31, 32, *random.sample(range(len(wal)), 20), len(wal)]:
        folder = tmp_path / f"cut at {size}"
        folder.mkdir()
        shutil.copyfile(copied, folder / "eu.sqlite")
        (folder / "eu.sqlite-wal").write_bytes(wal[:size])
        with Spool(folder / "eu.sqlite") as cut:
            held = [state.segment_id for state in cut.segments()]
            found = read_all(cut, segment_id) if held else []
            assert found == [(position, searches_at(position)) for position in range(1, len(found) + 1)]
            if held:
                assert cut.depth().chunks == cut.segments()[0].last_position == len(found)
            lengths.append(len(found))
            cut.open_segment()
            assert cut.append([ROW], {}, 0) == 1
    assert (min(lengths), max(lengths)) == (0, 100)


def test_a_spool_that_was_rolled_back_goes_on_with_other_digests(path: Path, tmp_path: Path) -> None:
    with Spool(path) as spool:
        segment_id = spool.open_segment().segment_id
        for position in range(1, 4):
            spool.append([ROW] * position, [], position)
        copied = snapshot(path, tmp_path / "copy")
        spool.append([ROW], [], 100)
        with Spool(copied) as rolled_back:
            rolled_back._current = spool._current  # as a process does that was saved and restored with its machine
            assert rolled_back.append([ROW], [], 101) == 4
            same = [spool.digest(segment_id, one) == rolled_back.digest(segment_id, one) for one in range(1, 5)]
    assert same == [True, True, True, False]


def test_a_flipped_byte_anywhere_is_an_error_or_a_damaged_chunk_but_never_another_search(path: Path) -> None:
    with Spool(path) as spool:
        segment_id = spool.open_segment().segment_id
        for position in range(1, 41):
            spool.append([(*ROW[:5], f"{position}.{number}") for number in range(60)], {"p": position}, position)
        sound = [(one.rows, one.ledger, one.digest) for one in spool.read(segment_id, 0, 10**6)]
    before = path.read_bytes()
    results = {"sound": 0, "damaged": 0, "refused": 0}
    for _ in range(300):
        offset, bit = random.randrange(len(before)), 1 << random.randrange(8)
        path.write_bytes(before[:offset] + bytes([before[offset] ^ bit]) + before[offset + 1 :])
        try:
            with Spool(path) as spool:
                chunks = spool.read(segment_id, 0, 10**6)
        except SpoolError as error:
            assert "\n" not in str(error)  # noqa: PT017
            results["refused"] += 1
            continue
        finally:
            Path(f"{path}-wal").unlink(missing_ok=True)
            Path(f"{path}-shm").unlink(missing_ok=True)
        assert [chunk.position for chunk in chunks] == list(range(1, len(chunks) + 1))
        whole = [chunk for chunk in chunks if chunk.damage is None]
        assert all((one.rows, one.ledger, one.digest) == sound[one.position - 1] for one in whole)
        results["sound" if len(whole) == len(sound) else "damaged"] += 1
    assert results["damaged"] > 200, results


def test_a_damaged_page_costs_the_chunks_on_it_and_holds_up_no_others(path: Path) -> None:
    with Spool(path, retain_seconds=0) as spool:
        segment_id = spool.open_segment().segment_id
        for position in range(1, 101):
            spool.append([ROW] * 10, {"position": position}, position)
    with path.open("r+b") as file:
        file.seek(20 * 4096)
        assert b"aphex" in file.read(4096)
        file.seek(20 * 4096)
        file.write(bytes(4096))
    with Spool(path, retain_seconds=0) as spool:
        chunks = spool.read(segment_id, 0, 10**6)
        assert [chunk.position for chunk in chunks] == list(range(1, 101))
        damaged = {chunk.position for chunk in chunks if chunk.damage is not None}
        assert 1 <= len(damaged) <= 8
        assert all(abs(chunk.heard_until_ms - chunk.position) <= 8 for chunk in chunks)
        for chunk in chunks:
            assert spool.digest(segment_id, chunk.position) == chunk.digest
            spool.acknowledge(segment_id, chunk.position, uuid.UUID(int=1))
            assert spool.depth().chunks == 100 - chunk.position
        while spool.prune(time.time_ns() // 1_000_000 + 1):
            pass
        assert spool.segments() == []
        assert spool.depth().searches == 0
        spool.open_segment()
        assert spool.append([ROW], {}, 0) == 1


def append_until_refused(spool: Spool, rows: list[Row] | None = None) -> str:
    while True:
        try:
            spool.append([ROW] * 200 if rows is None else rows, {}, 0)
        except SpoolUnavailable as error:
            return str(error)


def assert_nothing_half(spool: Spool, segment_id: uuid.UUID, refused_at: int) -> None:
    chunks = spool.read(segment_id, 0, 10**6)
    assert [(chunk.position, chunk.damage) for chunk in chunks] == [(one, None) for one in range(1, refused_at + 1)]
    assert all(chunk.rows == [ROW] * 200 for chunk in chunks)


def test_a_disk_that_takes_no_more_is_told_and_used_again_when_it_does(path: Path) -> None:
    # Works for every user: beyond this size the kernel refuses to let any file grow.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Spool(path) as spool:
        segment_id = spool.open_segment().segment_id
        spool.append([ROW] * 200, {}, 0)
        resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, hard))
        try:
            messages = {append_until_refused(spool) for _ in range(3)}
            refused_at = spool.segments()[0].last_position
            assert_nothing_half(spool, segment_id, refused_at)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert len(messages) == 1
        assert "\n" not in messages.pop()
        assert spool.append([ROW] * 200, {}, 0) == refused_at + 1
        assert_nothing_half(spool, segment_id, refused_at + 1)
    with Spool(path) as spool:
        assert_nothing_half(spool, segment_id, refused_at + 1)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m,mode=700", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("may not mount a small disk here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_the_spool_itself_has_filled_is_drained_and_used_again(small_disk: Path) -> None:
    with Spool(small_disk / "spool" / "eu.sqlite", retain_seconds=0) as spool:
        segment_id = spool.open_segment().segment_id
        with pytest.raises(SpoolFull, match="because its disk is"):
            append_until_refused(spool)
        refused_at = spool.segments()[0].last_position
        assert spool.append([], {}, 0) == refused_at + 1
        with SpoolReader(spool.path) as reader:
            for position in range(1, refused_at + 2):
                reader.acknowledge(segment_id, position, uuid.UUID(int=1))
        assert spool.append([ROW] * 200, {}, 0) == refused_at + 2


def test_a_disk_that_others_have_filled_is_told_and_used_again_when_there_is_space(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    with Spool(small_disk / "spool" / "eu.sqlite") as spool:
        segment_id = spool.open_segment().segment_id
        spool.append([ROW] * 200, {}, 0)
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        for rows in ([ROW] * 200, []):
            with contextlib.suppress(SpoolFull):
                assert "full" in append_until_refused(spool, rows)
        refused_at = spool.segments()[0].last_position
        ballast.unlink()
        assert spool.append([ROW] * 200, {}, 0) == refused_at + 1
        assert spool.read(segment_id, refused_at, 10**6)[0].rows == [ROW] * 200


def test_a_reader_that_never_rests_does_not_let_the_wal_grow(path: Path) -> None:
    stopping = threading.Event()
    read: list[int] = []
    with Spool(path) as spool:
        segment_id = spool.open_segment().segment_id

        def drain() -> None:
            with SpoolReader(path) as reader:
                position = 0
                while not stopping.is_set():
                    for chunk in reader.read(segment_id, position, 1000):
                        read.append(len(chunk.copy_rows()))
                        position = chunk.position
                    reader.acknowledge(segment_id, position, uuid.UUID(int=1))

        thread = threading.Thread(target=drain)
        thread.start()
        largest, written = 0, 0
        try:
            while written < 60 * MIB:
                spool.append([ROW] * 500, {}, 0)
                written += 500 * 120
                largest = max(largest, Path(f"{path}-wal").stat().st_size)
        finally:
            stopping.set()
            thread.join()
    assert len(read) > 100
    assert largest < 12 * MIB
