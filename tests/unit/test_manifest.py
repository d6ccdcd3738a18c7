import dataclasses
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soulseek_research.storage.archive import layout, manifest
from soulseek_research.storage.archive.errors import ArchiveError
from soulseek_research.storage.archive.manifest import Gap, Manifest, Stretch
from soulseek_research.storage.archive.month import Month
from soulseek_research.storage.archive.rows import COLUMNS
from soulseek_research.storage.archive.settings import Format
from soulseek_research.storage.archive.tally import Tally

NOON = datetime(2026, 10, 5, 12, 0, 0, 123456, tzinfo=UTC)
STRETCH = Stretch("eu", NOON, NOON + timedelta(hours=1), "child", 3, 100, 5, 1, 0, None)
GAP = Gap("us", NOON, NOON, "spool full", None, 'it said "no space"\n')
EXAMPLE = Manifest(
    month=Month(2026, 10),
    part=2,
    format=Format.PARQUET,
    file_name="2026/searches_2026-10.part2.parquet",
    file_size=12345,
    sha256="0f" * 32,
    rows=100,
    tally=Tally(rows=100, first_timestamp=1, last_timestamp=2, tickets=2**40, query_bytes=5),
    checksum="v1:0123456789abcdef",
    first_timestamp=NOON,
    last_timestamp=None,
    key_ids=("abcd2345",),
    usernames=True,
    coverage=(STRETCH, dataclasses.replace(STRETCH, client_id="日本", end_reason="silence")),
    gaps=(GAP,),
    software="soulseek-research 0.1.0",
    postgresql="18.4",
    sealed_at=NOON,
    verified_at=NOON,
    archived_at=NOON,
    table_size=99999,
    column_sizes={"query": 10, "id": 2},
)


def test_it_comes_back_as_it_was() -> None:
    assert manifest.load(manifest.dump(EXAMPLE), "here") == EXAMPLE


texts = st.text(st.characters(codec="utf-8"))
moments = st.datetimes(timezones=st.just(UTC))
stretches = st.builds(
    Stretch, texts, moments, moments, texts, *[st.integers(0, 2**62)] * 5, end_reason=st.none() | texts
)


@given(
    st.lists(stretches, max_size=3).map(tuple),
    st.lists(st.builds(Gap, texts, moments, moments, texts, st.none() | st.integers(), st.none() | texts)).map(tuple),
    st.lists(texts).map(tuple),
    moments,
)
def test_whatever_is_in_it_comes_back(
    coverage: tuple[Stretch, ...], gaps: tuple[Gap, ...], key_ids: tuple[str, ...], moment: datetime
) -> None:
    one = dataclasses.replace(EXAMPLE, coverage=coverage, gaps=gaps, key_ids=key_ids, archived_at=moment)
    assert manifest.load(manifest.dump(one), "here") == one


def test_people_can_read_it() -> None:
    text = manifest.dump(EXAMPLE).decode()
    document = json.loads(text)
    first, *rest = document
    assert first == "about"
    assert rest == sorted(rest)
    assert "searches_2026-10.part2.parquet" in document["about"]
    assert "2026-10" in document["about"]
    assert {"Z"} == {document[name][-1] for name in ("archived_at", "sealed_at", "first_timestamp")}
    assert [column["name"] for column in document["schema"]] == list(COLUMNS)
    assert all(column["meaning"] and column["type"] for column in document["schema"])
    assert "2^64" in document["checksum_definition"]
    # A stretch is a line, and as it was written.
    assert (
        '["日本", "2026-10-05T12:00:00.123456Z", "2026-10-05T13:00:00.123456Z", "child", 3, 100, 5, 1, 0, "silence"]'
        in text
    )
    assert text.endswith("}\n")


def test_a_long_month_stays_small() -> None:
    text = manifest.dump(dataclasses.replace(EXAMPLE, coverage=(STRETCH,) * 10_000))
    assert len(text) < 1_200_000


def test_what_a_later_version_adds_is_left_alone() -> None:
    document = json.loads(manifest.dump(EXAMPLE))
    document["weather"] = "fine"
    document["coverage"]["columns"].append("mood")
    for row in document["coverage"]["rows"]:
        row.append("good")
    assert manifest.load(json.dumps(document).encode(), "here") == EXAMPLE


def _document(**changes: Any) -> bytes:
    document = json.loads(manifest.dump(EXAMPLE)) | changes
    return json.dumps({name: value for name, value in document.items() if value is not ...}).encode()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not JSON"),
        (manifest.dump(EXAMPLE)[:-20], "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[]", "no manifest"),
        (b"{}", "no manifest"),
        (_document(manifest_version=2), "version 2, and 1 is known"),
        (_document(manifest_version="1"), "version '1'"),
        (_document(sha256=...), "sha256: Field required"),
        (_document(sha256="0F" * 32), "sha256"),
        (_document(rows="100"), "rows"),
        (_document(rows=True), "rows"),
        (_document(rows=99), "contradicts itself: 99 rows, and 100"),
        (_document(part=1), "contradicts itself"),
        (_document(part=0), "part"),
        (_document(month="2026-11"), "contradicts itself"),
        (_document(month="October"), "not a month"),
        (_document(format="tar"), "format"),
        (_document(file_name="../../etc/passwd"), "contradicts itself"),
        (_document(archived_at="2026-11-03T04:00:00"), "archived_at"),
        (_document(usernames=1), "usernames"),
        (_document(coverage=...), "no table"),
        (_document(coverage=[]), "no table"),
        (_document(coverage={"columns": ["client_id"], "rows": [["eu", 1]]}), "no table"),
        (_document(coverage={"columns": ["client_id"], "rows": [["eu"]]}), "coverage.0.started_at: Field required"),
        (_document(gaps={"columns": [], "rows": 3}), "no table"),
        (_document(schema=[]), "columns that are not known"),
        (_document(schema=[{"name": name, "type": "text", "meaning": ""} for name in COLUMNS]), "that are not known"),
        (_document(tally={"rows": "100"}), "tally.rows"),
    ],
)  # fmt: skip
def test_what_is_damaged_is_refused_by_name(data: bytes, words: str) -> None:
    with pytest.raises(ArchiveError, match=r"^/srv/x\.manifest\.json") as refusal:
        manifest.load(data, "/srv/x.manifest.json")
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


@given(st.integers(0, 10**6), st.binary(min_size=1, max_size=4))
def test_damage_is_an_error_or_leaves_a_manifest(position: int, rubbish: bytes) -> None:
    data = bytearray(manifest.dump(EXAMPLE))
    position %= len(data)
    data[position : position + len(rubbish)] = rubbish
    try:
        found = manifest.load(bytes(data), "here")
    except ArchiveError:
        return
    assert layout.parse(found.file_name) == (found.month, found.part, found.format)
