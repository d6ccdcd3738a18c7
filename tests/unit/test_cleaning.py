import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors.cleaning import MAX_QUERY_CHARACTERS, clean, clean_ticket
from collectors.search import Flag

any_text = st.text(st.characters(exclude_categories=()))


@pytest.mark.parametrize(
    ("heard", "kept", "flags"),
    [
        ("aphex twin drukqs flac", "aphex twin drukqs flac", 0),
        ("", "", 0),
        ("a\x00b", "a\ufffdb", Flag.ALTERED),
        ("tab\tline\r\nend\x7f\x85", "tab\ufffdline\ufffd\ufffdend\ufffd\ufffd", Flag.ALTERED),
        ("lone \ud83d surrogate", "lone \ufffd surrogate", Flag.ALTERED),
        ("\ufffd was there before", "\ufffd was there before", 0),
        ("shalom \u202eabc\u202c zero\u200bwidth \u2028", "shalom \u202eabc\u202c zero\u200bwidth \u2028", 0),
        ("久石譲　ジブリ 🎵", "久石譲　ジブリ 🎵", 0),
        ("x" * MAX_QUERY_CHARACTERS, "x" * MAX_QUERY_CHARACTERS, 0),
        ("x" * 65536, "x" * MAX_QUERY_CHARACTERS, Flag.TRUNCATED),
        ("\0" * 65536, "\ufffd" * MAX_QUERY_CHARACTERS, Flag.TRUNCATED | Flag.ALTERED),
        ("x" * MAX_QUERY_CHARACTERS + "\0", "x" * MAX_QUERY_CHARACTERS, Flag.TRUNCATED),
    ],
)
def test_each_rule(heard: str, kept: str, flags: int) -> None:
    assert clean(heard) == (kept, flags)


@given(any_text)
def test_what_is_kept_can_be_stored_and_differs_only_where_it_must(heard: str) -> None:
    kept, flags = clean(heard)
    assert json.loads(json.dumps(kept).encode("utf-8")) == kept
    assert kept.encode("utf-8").decode("utf-8") == kept
    assert ["\ufffd" if unicodedata.category(character) in {"Cc", "Cs"} else character for character in heard] == list(
        kept
    )
    assert bool(flags & Flag.ALTERED) == (kept != heard)
    assert clean(kept) == (kept, 0)


@pytest.mark.parametrize(("heard", "kept"), [(0, 0), (2**32 - 1, 2**32 - 1), (2**32, None), (-1, None)])
def test_a_ticket_is_an_unsigned_32_bit_number(heard: int, kept: int | None) -> None:
    assert clean_ticket(heard) == kept
