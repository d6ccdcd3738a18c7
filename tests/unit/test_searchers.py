"""The simulated people behave as the measured network does, and the same each time."""

import hashlib
import os
import subprocess
import sys
import unicodedata
from collections import Counter, defaultdict
from itertools import islice, pairwise, takewhile

import pytest

from soulseek_research.simulation import hostile, searchers
from soulseek_research.simulation.people import Client
from soulseek_research.simulation.searchers import Crowd, Search

PEOPLE = 300
DIGEST = """
import hashlib, itertools
from soulseek_research.simulation import searchers
text = repr(list(itertools.islice(searchers.stream(7, 50), 3000)))
print(hashlib.sha256(text.encode()).hexdigest())
"""


@pytest.fixture(scope="module")
def day() -> list[Search]:
    return list(searchers.one_day(1, PEOPLE))


def wishes_by_person(day: list[Search]) -> dict[str, list[Search]]:
    wishes = defaultdict(list)
    for search in day:
        if search.kind == "wish":
            wishes[search.username].append(search)
    return wishes


def test_a_person_asks_about_130_times_a_day(day: list[Search]) -> None:
    assert 115 < len(day) / PEOPLE < 145


def test_96_percent_of_a_days_queries_are_unique(day: list[Search]) -> None:
    assert 0.945 < len({search.query for search in day}) / len(day) < 0.98


def test_much_of_the_stream_is_wishlists(day: list[Search]) -> None:
    kinds = Counter(search.kind for search in day)
    assert set(kinds) == {"person", "wish", "discography"}
    assert 0.35 < kinds["wish"] / len(day) < 0.55
    assert 0.05 < kinds["discography"] / len(day) < 0.20


def test_searches_come_in_order_of_time(day: list[Search]) -> None:
    assert all(before.at_seconds <= after.at_seconds for before, after in pairwise(day))


def test_the_day_is_even(day: list[Search]) -> None:
    hours = Counter(int(search.at_seconds // 3600) for search in day)
    assert max(hours.values()) < 1.5 * min(hours.values())


def test_the_first_minutes_are_no_thinner_than_the_rest() -> None:
    people = 4000
    count = sum(1 for _ in takewhile(lambda search: search.at_seconds < 120, searchers.stream(1, people)))
    assert count / 120 == pytest.approx(people * searchers.SEARCHES_A_DAY / 86400, rel=0.15)


def test_with_a_rhythm_the_day_is_not_even() -> None:
    hours: Counter[int] = Counter()
    for search in searchers.stream(1, 200, rhythm=True):
        if search.at_seconds >= 86400:
            break
        if search.kind == "person":
            hours[int(search.at_seconds // 3600)] += 1
    assert max(hours.values()) > 2 * min(hours.values())


def test_a_wishlist_shows_a_comb_of_12_minutes(day: list[Search]) -> None:
    for wishes in wishes_by_person(day).values():
        for before, after in pairwise(wishes):
            gap = after.at_seconds - before.at_seconds
            # One tick, or a night offline between two sessions.
            assert gap == pytest.approx(720) or gap > 3600


def test_wishes_come_in_rotation() -> None:
    crowd = Crowd(1, 200, hostile_share=0, hit_share=0, rhythm=False)
    wishlists = {one.username: one.wishes for one in crowd.people if 0 < one.wishes <= 40}
    assert wishlists
    asked = defaultdict(list)
    for search in crowd.searches():
        if search.at_seconds >= 86400:
            break
        if search.kind == "wish" and search.username in wishlists:
            asked[search.username].append(search.query)
    for username, queries in asked.items():
        length = wishlists[username]
        assert len(set(queries)) == length
        assert queries[length:] == queries[:-length]


def test_some_clients_keep_the_ticket_of_a_wish_and_others_do_not() -> None:
    crowd = Crowd(1, 150, hostile_share=0, hit_share=0, rhythm=False)
    clients = {one.username: one.client for one in crowd.people}
    tickets = defaultdict(set)
    times: Counter[tuple[str, str]] = Counter()
    for search in islice(crowd.searches(), 22_000):
        if search.kind == "wish":
            tickets[search.username, search.query].add(search.ticket)
            times[search.username, search.query] += 1
    repeated = [wish for wish, count in times.items() if count > 1]
    assert {clients[username] for username, _ in repeated} >= {Client.NICOTINE, Client.QT}
    for wish in repeated:
        kept = clients[wish[0]] is Client.NICOTINE
        assert len(tickets[wish]) == (1 if kept else times[wish])


def test_no_two_searches_of_a_minute_are_the_same(day: list[Search]) -> None:
    last: dict[tuple[str, int, str], float] = {}
    for search in day:
        identity = search.username, search.ticket, search.query
        assert search.at_seconds - last.get(identity, -1e9) > 60
        last[identity] = search.at_seconds


def test_a_discography_is_a_burst_of_related_queries(day: list[Search]) -> None:
    bursts = defaultdict(list)
    for search in day:
        if search.kind == "discography":
            bursts[search.username].append(search)
    steps = [step for burst in bursts.values() for step in pairwise(burst)]
    # The others lie between two bursts.
    close = [(before, after) for before, after in steps if 10 <= after.at_seconds - before.at_seconds <= 60]
    assert len(close) > 0.8 * len(steps)
    assert sum(before.query[:3] == after.query[:3] for before, after in close) > 0.95 * len(close)


def test_people_search_in_many_scripts(day: list[Search]) -> None:
    scripts = Counter(
        unicodedata.name(letter, "?").split()[0] for search in day[:10_000] for letter in set(search.query[:20])
    )
    wanted = ["LATIN", "CYRILLIC", "GREEK", "CJK", "HIRAGANA", "KATAKANA", "HANGUL", "ARABIC", "HEBREW", "THAI"]
    assert all(scripts[script] for script in wanted)


def test_queries_have_formats_and_exclusions(day: list[Search]) -> None:
    words = Counter(word for search in day for word in search.query.split(" "))
    assert min(words[word] for word in ("flac", "mp3", "320", "vinyl", "-live", "*")) >= 0
    assert all(words[word] for word in ("flac", "mp3", "320", "vinyl", "-live", "discography", "🔥"))


def test_some_queries_name_someone(day: list[Search]) -> None:
    usernames = {search.username for search in day}
    named = sum(any(search.query.startswith(f"{name} ") for name in usernames) for search in day[:3000])
    assert 0 < named < 100


def test_everyone_has_a_name_of_their_own() -> None:
    crowd = Crowd(1, 20_000, hostile_share=0, hit_share=0, rhythm=False)
    assert len({person.username for person in crowd.people}) == 20_000


def test_hostile_strings_come_as_their_bytes() -> None:
    stream = searchers.stream(1, 100, hostile_share=0.5)
    sent = {search.query.encode() if search.raw is None else search.raw for search in islice(stream, 20_000)}
    assert sent.issuperset(hostile.QUERIES.values())
    assert max(map(len, sent)) == hostile.LONG_QUERY_BYTES


def test_without_hostile_strings_there_are_none(day: list[Search]) -> None:
    stream = searchers.stream(1, 100, hostile_share=0)
    sent = {search.query.encode() for search in islice(stream, 20_000)}
    assert sent.isdisjoint(hostile.QUERIES.values())


def test_tickets_fit_the_wire(day: list[Search]) -> None:
    assert all(0 <= search.ticket < 1 << 32 for search in day)


def test_the_same_seed_gives_the_same_searches_in_any_process() -> None:
    text = repr(list(islice(searchers.stream(7, 50), 3000)))
    here = hashlib.sha256(text.encode()).hexdigest()
    for hash_seed in ("0", "4242"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        there = subprocess.run(
            [sys.executable, "-c", DIGEST], env=environment, capture_output=True, text=True, check=True
        )
        assert there.stdout.strip() == here


def test_another_seed_gives_other_searches() -> None:
    queries = [{search.query for search in islice(searchers.stream(seed, 50), 2000)} for seed in (1, 2)]
    assert len(queries[0] & queries[1]) < 100


def test_a_stream_can_begin_in_the_middle_of_the_day() -> None:
    first = next(iter(searchers.stream(1, 500, first_second=40_000)))
    assert 0 <= first.at_seconds < 60
