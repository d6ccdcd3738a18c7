"""What the spool promises, held against a model of it, and what it says when it cannot."""

import itertools
import os
import re
import shutil
import sqlite3
import stat
import struct
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from collectors import chunk, spool
from collectors.search import Flag, Row, Source
from collectors.spool import Spool, SpoolDamaged, SpoolError, SpoolFull, SpoolLocked, SpoolReader

DAY_MS = 86_400_000
HERE, ELSEWHERE = uuid.UUID(int=1), uuid.UUID(int=2)
ROW: Row = (1_790_000_000_000, 7, 1, 0, "abcdefgh." + "A" * 51, "aphex twin selected ambient wo")

texts = st.text(st.characters(exclude_categories=())) | st.sampled_from(["\0", '"\\', "\ud800", "кино", "🎵"])
rows = st.tuples(
    st.integers(-(2**52), 2**52),
    st.none() | st.integers(0, 2**32 - 1),
    st.sampled_from(Source),
    st.integers(0, 15).map(Flag),
    texts,
    texts,
)
ledgers: st.SearchStrategy[Any] = st.fixed_dictionaries({"stretches": st.lists(texts, max_size=2)})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool" / "eu.sqlite"


@pytest.fixture
def opened(path: Path) -> Iterator[Spool]:
    with Spool(path) as opened:
        opened.open_segment()
        yield opened


class Modelled:
    """What a segment should hold."""

    def __init__(self, segment: spool.Segment) -> None:
        self.segment = segment
        self.chunks: list[tuple[list[Row], Any, int]] = []
        self.acknowledged = self.pruned = 0
        self.database: uuid.UUID | None = None

    @property
    def state(self) -> spool.SegmentState:
        last = len(self.chunks)
        return spool.SegmentState(*self.segment, last, self.acknowledged, self.database, self.pruned)


class SpoolMachine(RuleBasedStateMachine):
    """Two connections and a model; closing, reopening and pruning lose nothing and change no order."""

    @initialize()
    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="sr-"))
        self.path = self.folder / "spool" / "eu.sqlite"
        self.segments: list[Modelled] = []
        self.facts: dict[str, str] = {}
        self.open()

    def open(self) -> None:
        self.spool = Spool(self.path)
        self.reader = SpoolReader(self.path)
        self.segments.append(Modelled(self.spool.open_segment()))

    @rule()
    def open_segment(self) -> None:
        self.segments.append(Modelled(self.spool.open_segment()))

    @rule(reader_first=st.booleans())
    def reopen(self, reader_first: bool) -> None:
        for one in (self.reader, self.spool) if reader_first else (self.spool, self.reader):
            one.close()
        self.open()

    @rule(searches=st.lists(rows, max_size=4), ledger=ledgers, heard_until_ms=st.integers(0, 2**50))
    def append(self, searches: list[Row], ledger: Any, heard_until_ms: int) -> None:
        newest = self.segments[-1].chunks
        newest.append((searches, ledger, heard_until_ms))
        assert self.spool.append(searches, ledger, heard_until_ms) == len(newest)

    @rule(data=st.data(), database=st.sampled_from([HERE, ELSEWHERE]))
    def acknowledge(self, data: st.DataObject, database: uuid.UUID) -> None:
        model = data.draw(st.sampled_from(self.segments))
        model.acknowledged = data.draw(st.integers(model.pruned, len(model.chunks)))
        model.database = database
        self.reader.acknowledge(model.segment.segment_id, model.acknowledged, database)

    @rule()
    def prune_today(self) -> None:
        assert self.spool.prune(time.time_ns() // 1_000_000) == 0

    @rule()
    def prune_in_two_days(self) -> None:
        expected = sum(model.acknowledged - model.pruned for model in self.segments)
        removed = 0
        while step := self.spool.prune(time.time_ns() // 1_000_000 + 2 * DAY_MS):
            removed += step
        assert removed == expected
        for model in self.segments:
            model.pruned = model.acknowledged
        *ended, newest = self.segments
        self.segments = [model for model in ended if model.pruned < len(model.chunks)] + [newest]

    @rule(name=st.sampled_from("ab"), value=st.text())
    def remember(self, name: str, value: str) -> None:
        self.reader.remember(name, value)
        self.facts[name] = value

    @precondition(lambda self: any(model.pruned < len(model.chunks) for model in self.segments))
    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        model = data.draw(st.sampled_from([model for model in self.segments if model.pruned < len(model.chunks)]))
        after = data.draw(st.integers(model.pruned, len(model.chunks) - 1))
        max_rows = data.draw(st.integers(1, 8))
        found = self.reader.read(model.segment.segment_id, after, max_rows)
        assert [one.position for one in found] == list(range(after + 1, after + 1 + len(found)))
        assert [(one.rows, one.ledger, one.heard_until_ms) for one in found] == model.chunks[after : found[-1].position]
        held = sum(one.row_count for one in found)
        assert held - found[-1].row_count < max_rows
        assert held >= max_rows or found[-1].position == len(model.chunks)
        assert self.reader.digest(model.segment.segment_id, found[-1].position) == found[-1].digest

    @invariant()
    def knows_what_waits(self) -> None:
        assert self.reader.segments() == [model.state for model in self.segments]
        waiting = [one for model in self.segments for one in model.chunks[model.acknowledged :]]
        depth = self.reader.depth()
        assert depth.chunks == len(waiting)
        assert depth.searches == sum(len(searches) for searches, _, _ in waiting)
        assert depth.oldest_ms == (waiting[0][2] if waiting else None)
        assert {name: self.reader.recall(name) for name in self.facts} == self.facts

    def teardown(self) -> None:
        self.reader.close()
        self.spool.close()
        shutil.rmtree(self.folder)


TestSpool = SpoolMachine.TestCase
TestSpool.settings = settings(max_examples=40, stateful_step_count=40)


@given(st.lists(rows, max_size=20))
def test_searches_come_back_as_they_were_kept(searches: list[Row]) -> None:
    assert chunk.decode_searches(chunk.encode_searches(searches)) == searches


@given(st.lists(rows, max_size=20), st.text(st.characters(exclude_categories=["Cs"]), max_size=10))
def test_searches_go_as_copy_takes_them(searches: list[Row], client_id: str) -> None:
    one = as_chunk(searches)
    assert one.copy_body(client_id) == chunk.copy_body_of(one.copy_rows(), client_id)
    assert [chunk.minute_of(search) for search in one.copy_rows()] == [row[0] // 60_000 for row in searches]
    assert one.per_minute() == Counter(row[0] // 60_000 for row in searches)


def test_what_looks_like_a_mark_is_told_from_one() -> None:
    mark = next(chunk._marks())
    (ticket,) = struct.unpack(">q", mark)
    looking_alike: list[Row] = [(ROW[0], ticket, 1, 0, "p", "q")] * 3
    stored = chunk.encode_searches(looking_alike)
    assert stored[:8] != mark
    assert chunk.decode_searches(stored) == looking_alike


def test_numbers_that_no_column_holds_are_brought_near() -> None:
    (stored,) = chunk.decode_searches(chunk.encode_searches([(10**17, 2**70, 1, 0, "p", "q")]))
    assert stored[0] > 9 * 10**15
    assert stored[1:] == (None, 1, 0, "p", "q")


def as_chunk(searches: list[Row]) -> chunk.Chunk:
    return chunk.Chunk(HERE, 1, b"", len(searches), 0, chunk.encode_searches(searches), b"null")


@pytest.mark.parametrize(
    "change",
    [
        "searches = CAST(replace(CAST(searches AS TEXT), 'aphex', 'aphax') AS BLOB)",
        "ledger = '[1]'",
        "search_count = search_count + 1",
        "heard_until_ms = heard_until_ms + 1",
        "digest = zeroblob(32)",
        "searches = 5",
        "digest = 'text'",
        "position = 9",
    ],
)
def test_a_chunk_that_is_not_what_was_written_is_named_and_not_read(opened: Spool, change: str) -> None:
    for _ in range(3):
        opened.append([ROW] * 5, [], 1_790_000_001_000)
    with opened._file.transaction() as connection:
        connection.execute(f"UPDATE chunks SET {change} WHERE position = 2")
    segment_id = opened.segments()[0].segment_id
    first, second, third = opened.read(segment_id, 0, 100)
    assert (first.damage, third.damage) == (None, None)
    assert second.position == 2
    assert second.damage
    assert second.heard_until_ms == 1_790_000_001_000
    assert len(second.digest) == 32
    assert opened.digest(segment_id, 2) == second.digest
    for what in (
        lambda: second.rows,
        lambda: second.copy_body("eu"),
        second.copy_rows,
        second.per_minute,
        lambda: second.ledger,
    ):
        with pytest.raises(SpoolDamaged, match="chunk 2 of segment"):
            what()


def test_a_chunk_of_another_segment_or_place_has_another_digest() -> None:
    def digest(segment_id: uuid.UUID, position: int) -> bytes:
        return chunk.digest_of(segment_id, position, row_count=0, heard_until_ms=0, searches=b"{}", ledger_text=b"[]")

    assert len({digest(HERE, 1), digest(ELSEWHERE, 1), digest(HERE, 2)}) == 3


def fill(full: Spool, searches: list[Row]) -> int:
    """Appends until the spool is full and returns how many chunks it took."""
    for taken in itertools.count():
        try:
            full.append(searches, [], 0)
        except SpoolFull as error:
            assert re.search(r"eu.sqlite: full, with [\d,]+ of 1,048,576 bytes$", str(error))  # noqa: PT017
            return taken
    raise AssertionError


def test_a_full_spool_gives_up_what_is_acknowledged_first_and_never_grows_beyond_its_limit(path: Path) -> None:
    with Spool(path, 2**20) as full:
        segment_id = full.open_segment().segment_id
        taken = fill(full, [ROW] * 100)
        assert taken > 50
        full.acknowledge(segment_id, 10, HERE)
        assert 8 <= fill(full, [ROW] * 100) <= 12
        assert full.segments()[0].pruned_position == 10
        assert full.read(segment_id, 10, 1)[0].rows == [ROW] * 100
        assert full.depth().bytes <= 2**20
    assert path.stat().st_size <= 2**20


def test_a_full_spool_still_takes_chunks_without_searches_for_a_while(path: Path) -> None:
    with Spool(path, 2**20) as full:
        full.open_segment()
        taken = fill(full, [ROW] * 100)
        assert fill(full, []) > 100
        assert full.depth().searches == taken * 100
    assert path.stat().st_size <= 2**20


def test_a_position_is_never_used_twice_even_when_nothing_is_left(path: Path) -> None:
    with Spool(path, retain_seconds=0) as opened:
        segment_id = opened.open_segment().segment_id
        digests = []
        for position in range(1, 6):
            assert opened.append([ROW], [], position) == position
            opened.acknowledge(segment_id, position, HERE)
            assert opened.prune(time.time_ns() // 1_000_000 + 1) == 1
            digests.append(opened.digest(segment_id, position))
        assert len(set(digests)) == 5
        assert None not in digests
        assert opened.digest(segment_id, 1) is None
        with pytest.raises(SpoolError, match="chunks 1 to 5 were pruned"):
            opened.read(segment_id, 0, 100)
        with pytest.raises(SpoolError, match="no chunk 6"):
            opened.acknowledge(segment_id, 6, HERE)


def test_chunks_stay_their_time_after_they_were_acknowledged_not_after_they_were_heard(path: Path) -> None:
    with Spool(path, retain_seconds=3600) as opened:
        segment_id = opened.open_segment().segment_id
        opened.append([ROW], [], 0)
        opened.append([ROW], [], 0)
        opened.acknowledge(segment_id, 1, HERE)
        now = time.time_ns() // 1_000_000
        assert opened.prune(now + 3_590_000) == 0
        assert opened.prune(now + 3_610_000) == 1
        assert opened.segments()[0].pruned_position == 1


def test_what_is_taken_back_in_the_middle_of_pruning_stays(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Spool(path, retain_seconds=0) as opened, SpoolReader(path) as reader:
        segment_id = opened.open_segment().segment_id
        for position in range(5):
            opened.append([ROW], [], position)
        reader.acknowledge(segment_id, 5, HERE)
        found_until = opened._end_of

        def take_back(number: int, position: int) -> tuple[bytes | None, int | None]:
            reader.acknowledge(segment_id, 2, HERE)
            return found_until(number, position)

        monkeypatch.setattr(opened, "_end_of", take_back)
        opened.prune(time.time_ns() // 1_000_000 + 1)
        assert [one.rows for one in opened.read(segment_id, 2, 100)] == [[ROW]] * 3


def test_pruning_is_done_in_small_pieces_and_the_disk_gets_its_space_back(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "GIVE_BACK_BYTES", 2**20)
    with Spool(path, retain_seconds=0) as opened:
        segment_id = opened.open_segment().segment_id
        for position in range(200):
            opened.append([ROW] * 500, [], position)
        opened.acknowledge(segment_id, 190, HERE)
        steps = []
        while removed := opened.prune(time.time_ns() // 1_000_000 + 1):
            steps.append(removed)
        assert sum(steps) == 190
        for _ in range(200):
            opened.prune(time.time_ns() // 1_000_000)
        assert [one.damage for one in opened.read(segment_id, 190, 10**6)] == [None] * 10
    assert path.stat().st_size < 3 * 2**20


def test_appending_waits_for_the_disk(opened: Spool) -> None:
    # A power cut cannot be staged here: what SQLite promises for these settings is what we rely on.
    with opened._file.transaction(read_only=True) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)


def test_only_one_may_append(path: Path) -> None:
    with Spool(path):
        with pytest.raises(SpoolLocked, match=f"in use by another collector, process {os.getpid()}$"):
            Spool(path)
        link = path.with_name("link.sqlite")
        link.symlink_to(path)
        with pytest.raises(SpoolLocked):
            Spool(link)
    Spool(path).close()


@pytest.mark.parametrize("umask", [0o000, 0o027])
def test_it_is_its_owners_alone_whatever_the_umask(path: Path, umask: int) -> None:
    path.parent.mkdir()  # the one thing that is not ours when it is there
    before = os.umask(umask)
    try:
        with Spool(path) as opened:
            opened.open_segment()
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(["eu.sqlite", "eu.sqlite-wal", "eu.sqlite-shm", "eu.sqlite.lock"], 0o600)


def test_it_makes_its_folder_for_its_owner_alone_and_closes_a_file_that_was_open_to_others(path: Path) -> None:
    Spool(path).close()
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    path.chmod(0o644)
    Spool(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def as_folder(path: Path) -> None:
    path.mkdir(parents=True)


def in_a_file(path: Path) -> None:
    path.parent.write_text("not a folder")


def no_database(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("This is a letter to my grandmother, who has no idea what SQLite is." * 100)


def anothers_database(path: Path) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE bookmarks (url)")
    connection.close()


def newer(path: Path) -> None:
    Spool(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 2")
    connection.close()


@pytest.mark.parametrize(
    ("arrange", "message"),
    [
        (as_folder, "not a file"),
        (in_a_file, "cannot be made in"),
        (no_database, "this file is not a spool"),
        (anothers_database, "this file is not a spool"),
        (newer, r"written by a newer version of this program \(its schema is 2, this one knows 1\)"),
    ],
)
def test_what_cannot_be_opened_is_said_in_one_line(path: Path, arrange: Callable[[Path], None], message: str) -> None:
    arrange(path)
    with pytest.raises(SpoolError, match=message) as raised:
        Spool(path)
    assert "\n" not in str(raised.value)
    assert str(path) in str(raised.value)


def test_a_reader_makes_no_spool(path: Path) -> None:
    with pytest.raises(SpoolError, match="there is none"):
        SpoolReader(path)
    assert not path.exists()


def test_nothing_is_appended_without_a_segment(path: Path) -> None:
    with Spool(path) as opened, pytest.raises(SpoolError, match="no segment is open"):
        opened.append([ROW], [], 0)
