import pytest
from hypothesis import given
from hypothesis import strategies as st

from soulseek_research.storage.archive import layout
from soulseek_research.storage.archive.errors import ArchiveError
from soulseek_research.storage.archive.month import Month
from soulseek_research.storage.archive.settings import Format

OCTOBER = Month(2026, 10)


@pytest.mark.parametrize(
    ("arguments", "usernames", "name"),
    [
        ((OCTOBER, 1, Format.PARQUET), True, "2026/searches_2026-10.parquet"),
        ((OCTOBER, 2, Format.CSV_ZST), True, "2026/searches_2026-10.part2.csv.zst"),
        ((OCTOBER, 1, Format.PARQUET), False, "2026/searches_2026-10.anonymous.parquet"),
        ((Month(987, 1), 13, Format.CSV_GZ), False, "0987/searches_0987-01.part13.anonymous.csv.gz"),
    ],
)
def test_what_archives_are_called(arguments: tuple[Month, int, Format], usernames: bool, name: str) -> None:
    assert layout.file_name(*arguments, usernames=usernames) == name
    assert layout.parse(name) == arguments


@given(st.builds(Month, st.integers(1, 9999), st.integers(1, 12)), st.integers(1, 10**9 - 1), st.sampled_from(Format))
def test_every_name_is_read_back(month: Month, part: int, form: Format) -> None:
    names = {layout.file_name(month, part, form, usernames=usernames) for usernames in (True, False)}
    assert len(names) == 2
    assert {layout.parse(name) for name in names} == {(month, part, form)}
    assert all("/".join(layout.steps(name)) == name for name in names)


@pytest.mark.parametrize(
    "name",
    [
        "searches_2026-10.parquet",
        "2025/searches_2026-10.parquet",
        "2026/searches_2026-13.parquet",
        "0000/searches_0000-01.parquet",
        "2026/searches_2026-10.part1.parquet",
        "2026/searches_2026-10.part02.parquet",
        "2026/searches_2026-10.csv",
        "2026/searches_2026-10.parquet.manifest.json",
        "2026/searches_2026-10.parquet\n",
        "../2026/searches_2026-10.parquet",
        "2026/.searches_2026-10.parquet.00.unfinished",
        "２０２６/searches_２０２６-10.parquet",
    ],
)
def test_what_is_no_archive(name: str) -> None:
    assert layout.parse(name) is None


def test_a_manifest_is_called_after_its_file() -> None:
    assert layout.manifest_name("2026/searches_2026-10.parquet") == "2026/searches_2026-10.parquet.manifest.json"


@pytest.mark.parametrize(
    "name", ["", "/", "a/", "/etc/passwd", "..", "a/../b", "a//b", ".hidden", "a/.b", "a\\b", "a\0b", "a\nb"]
)
def test_no_name_leads_out_of_its_place(name: str) -> None:
    with pytest.raises(ArchiveError, match="not the name of an archive"):
        layout.steps(name)
