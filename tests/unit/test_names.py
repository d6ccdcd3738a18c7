import copy
import pickle
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from collectors import names
from collectors.names import Names

HOUR_MS = 3_600_000


@pytest.mark.parametrize(
    ("name", "query"),
    [
        ("loopfreak", "loopfreak mixtape"),
        ("LoopFreak", "the best of LOOPFREAK"),
        ("loopfreak", "~loopfreak~[flac]"),
        ("john.smith_99", "John Smith 99 live"),
        ("dj_kool-herc", "by dj kool herc"),
        ("Straßenjunge", "STRASSENJUNGE demo"),
        ("ｗｉｄｅｎａｍｅ", "widename"),
        ("Борис_Гребень", "борис гребень 1984"),
        ("dupe dupe x9", "dupe dupe dupe x9"),
    ],
)
def test_a_name_stands_in_a_query_as_whole_words(name: str, query: str) -> None:
    heard = Names()
    assert not heard.found_in(query)
    heard.hear(name, 0)
    assert heard.found_in(query)


@pytest.mark.parametrize(
    ("name", "query"),
    [
        ("loopfreak", "loopfreaks"),
        ("loopfreak", "loop freak"),
        ("john.smith", "john and smith"),
        ("john.smith", "smith john"),
        ("loopfreak", ""),
        ("dj", "dj shadow"),  # too short
        ("d.j.x", "d j x"),  # three letters
        ("!!!!!", "!!!!! louden up now"),  # no words
        ("", ""),
        ("x" * 65, "x" * 65),
        ("a b c d e f g h i", "a b c d e f g h i"),
    ],
)
def test_what_is_not_a_name_in_a_query(name: str, query: str) -> None:
    heard = Names()
    heard.hear(name, 0)
    assert not heard.found_in(query)


def naive_words(text: str) -> list[str]:
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(character if character.isalnum() else " " for character in folded).split()


def naive_found(heard: list[str], query: str) -> bool:
    spaced = f" {' '.join(naive_words(query))} "
    return any(
        f" {' '.join(parts)} " in spaced
        for parts in map(naive_words, heard)
        if len("".join(parts)) >= 4 and len(parts) <= 8
    )


pieces = st.sampled_from(
    ["ab", "AB", "abcd", "c", "é", "ß", "Ж", "9", " ", " ", ".", "_", "-", "\u3000", "ﬀ", "\ud800"]
)
short_text = st.lists(pieces, max_size=12).map("".join)


@given(st.lists(short_text, max_size=6), short_text)
@example(["ab abcd c", "ab abcd"], "ab ab abcd")
def test_agrees_with_a_naive_search(heard: list[str], query: str) -> None:
    window = Names()
    for name in heard:
        window.hear(name, 0)
    assert window.found_in(query) == naive_found(heard, query)


@given(st.text(st.characters(exclude_categories=())))
def test_words_are_those_of_a_naive_reading(text: str) -> None:
    assert [word.decode() for word in names.words(text)] == naive_words(text)


@example([("anna", 0), ("bert smith", 11 * HOUR_MS), ("carl", HOUR_MS)])
@example([("anna", 0), ("bert smith", 12 * HOUR_MS)])
@given(st.lists(st.tuples(st.sampled_from(["anna", "bert smith", "carl"]), st.integers(0, 20 * HOUR_MS)), max_size=30))
def test_a_name_is_remembered_for_six_hours_and_forgotten_after_twelve(heard: list[tuple[str, int]]) -> None:
    window, last_heard, now = Names(), dict[str, int](), 0
    for name, step_ms in heard:
        now += step_ms
        window.hear(name, now)
        last_heard[name] = now
        for known, at in last_heard.items():
            if now - at < 6 * HOUR_MS:
                assert window.found_in(known)
            if now - at >= 12 * HOUR_MS:
                assert not window.found_in(known)


def test_a_clock_that_is_set_back_loses_no_name() -> None:
    window = Names()
    window.hear("anna", 100 * HOUR_MS)
    window.hear("bert", 0)
    window.hear("carl", HOUR_MS)
    assert all(map(window.found_in, ("anna", "bert", "carl")))


def test_the_window_is_bounded() -> None:
    window = Names(max_names=100)
    for number in range(1000):
        window.hear(f"somebody{number}", number)
        assert len(window) <= 100
    assert window.found_in("somebody950")
    assert not window.found_in("somebody1")


def test_names_cannot_leave_by_repr_or_pickle() -> None:
    window = Names()
    window.hear("loopfreak", 0)
    assert "loopfreak" not in f"{window!r} {window}"
    for leave in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError):
            leave(window)
