"""The people who search, and the programs that search for them, behaving as the measured network does.

About 130 searches a person and day, 96 % of a day's queries unique. Much of the stream is wishlists: clients that ask
one wish every 12 minutes in rotation. Everything follows from the seed: no clock, no hash seed, no threads.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Iterator
from typing import NamedTuple

from . import catalogue, hostile, vocabulary
from .people import DAY_SECONDS, Client, Person, make

SEARCHES_A_DAY = 130.0
"""Of one person, on average."""
WISH_SECONDS = 720.0
"""The server's interval for wishlists."""

# After a query comes, this often, the same wish in other words soon after; or the very same query again.
REFINES, REPEATS = 0.25, 0.01
REFINE_SECONDS = (8.0, 60.0)
# Someone who works through a discography asks for so many albums, one after another.
BURST_ALBUMS = (5, 20)
BURST_SECONDS = (10.0, 60.0)
NAMES_SOMEONE = 0.003
# How much of what is asked and wished is what everybody wants these days.
HITS = 0.012
HOSTILE = 1 / 2000

_WISH, _ASK, _BURST = 0, 1, 2


class Search(NamedTuple):
    """One search as it leaves a client."""

    at_seconds: float
    """Seconds since the beginning of the stream."""
    username: str
    ticket: int
    query: str
    kind: str
    """`person` (someone typed it), `wish` (a wishlist, so a program) or `discography` (someone working through an
    artist, or a program doing so)."""
    raw: bytes | None = None
    """The bytes of the query, where they are not the UTF-8 of `query`."""


def stream(
    seed: int,
    people: int,
    *,
    hostile_share: float = HOSTILE,
    hit_share: float = HITS,
    rhythm: bool = False,
    first_second: float = 0.0,
) -> Iterator[Search]:
    """The searches of so many people, in order of time, for ever.

    Args:
        seed: the same seed and the same arguments give the same searches.
        people: how many there are; they ask about 130 times a day each.
        hostile_share: the share of what people ask that is a hostile string (wishes are always harmless).
        hit_share: the share of what is asked and wished that is one of the few things everybody wants.
        rhythm: whether people come online in the evening of where they live; otherwise at any hour.
        first_second: where in the first day to begin.
    """
    crowd = Crowd(seed, people, hostile_share=hostile_share, hit_share=hit_share, rhythm=rhythm)
    return crowd.searches(first_second)


class Crowd:
    """All the people and what each will do next."""

    def __init__(self, seed: int, people: int, *, hostile_share: float, hit_share: float, rhythm: bool) -> None:
        self._seed = seed
        self._began = 0.0
        self._dice = random.Random(seed)
        self._hostile_share = hostile_share
        self._hit_share = hit_share
        self._hostile = [
            (raw, raw.decode(errors="replace"), raw.decode(errors="ignore").encode() != raw)
            for raw in hostile.QUERIES.values()
        ]
        self.people = [make(number, self._dice, rhythm=rhythm) for number in range(people)]

    def searches(self, first_second: float = 0.0) -> Iterator[Search]:
        """Everybody's searches in order of time, for ever."""
        self._began = first_second
        events: list[tuple[float, int, int]] = []
        for person in self.people:
            if person.wishes:
                events.append((self._first_wish(person, first_second), person.number, _WISH))
            events.append(self._first_ask(person, first_second))
        heapq.heapify(events)
        while events:
            at, number, what = events[0]
            person = self.people[number]
            if what == _WISH:
                search, then = self._wish(person, at)
            elif what == _BURST:
                search, then, what = self._continue_burst(person, at)
            else:
                search, then, what = self._ask(person, at)
            heapq.heapreplace(events, (then, number, what))
            yield search

    def _first_wish(self, person: Person, at: float) -> float:
        began, ends = person.session(at)
        if at < began:
            return began + WISH_SECONDS
        # In the middle of a session that began before: the comb goes on as it stood.
        ticks = int((at - began) / WISH_SECONDS) + 1
        person.wish = ticks % person.wishes
        then = began + ticks * WISH_SECONDS
        return then if then < ends else person.session(ends)[0] + WISH_SECONDS

    def _wish(self, person: Person, at: float) -> tuple[Search, float]:
        wish = person.wish
        person.wish = (wish + 1) % person.wishes
        ticket = person.wish_ticket(wish) if person.client is Client.NICOTINE else person.next_ticket(at)
        number = catalogue.mix(self._seed, person.number, wish, 1)
        wanted = number % 1000 < self._hit_share * 1000
        query = catalogue.hit(number // 1000) if wanted else catalogue.query(person.script, number)
        then = at + WISH_SECONDS
        ends = person.session(at)[1]
        if then >= ends:
            then = person.session(ends)[0] + WISH_SECONDS
        return Search(at - self._began, person.username, ticket, query, "wish"), then

    def _first_ask(self, person: Person, at: float) -> tuple[float, int, int]:
        """What a person does next: some are in the midst of it when the stream begins, or it would begin too thin."""
        dice = self._dice
        began, _ = person.session(at)
        luck = dice.random() / person.asks_a_second if at >= began else math.inf
        busy = person.burst_share * sum(BURST_ALBUMS) / 2 * sum(BURST_SECONDS) / 2
        if luck < busy:
            person.burst = catalogue.discography(
                person.script, dice.getrandbits(61), albums=dice.randint(*BURST_ALBUMS)
            )
            del person.burst[dice.randrange(1, len(person.burst)) :]
            return at + dice.uniform(0, BURST_SECONDS[1]), person.number, _BURST
        if luck < busy + REFINES / (1 - REFINES) * sum(REFINE_SECONDS) / 2:
            person.last = catalogue.query(self._language(person), dice.getrandbits(61))
            return at + dice.uniform(0, REFINE_SECONDS[1]), person.number, _ASK
        return self._next_ask(person, at), person.number, _ASK

    def _next_ask(self, person: Person, at: float) -> float:
        began, ends = person.session(at)
        then = max(at, began) + self._dice.expovariate(person.asks_a_second)
        while then >= ends:
            began, ends = person.session(ends)
            then = began + self._dice.expovariate(person.asks_a_second)
        return then

    def _ask(self, person: Person, at: float) -> tuple[Search, float, int]:
        dice = self._dice
        luck = dice.random()
        if luck < person.burst_share:
            person.burst = catalogue.discography(
                person.script, dice.getrandbits(61), albums=dice.randint(*BURST_ALBUMS)
            )
            person.burst.reverse()
            return self._continue_burst(person, at)
        raw = None
        if person.last is not None:
            query = person.last
            person.last = None
            if dice.random() > REPEATS / REFINES:
                query = catalogue.refine(query, dice.getrandbits(30))
        elif dice.random() < self._hostile_share:
            raw, query, lossy = dice.choice(self._hostile)
            if not lossy:
                raw = None
        elif dice.random() < NAMES_SOMEONE:
            query = f"{dice.choice(self.people).username} {dice.choice(vocabulary.EXTRAS)}"
        elif dice.random() < self._hit_share:
            query = catalogue.hit(dice.getrandbits(61))
        else:
            query = catalogue.query(self._language(person), dice.getrandbits(61))
        search = Search(at - self._began, person.username, person.next_ticket(at), query, "person", raw)
        if raw is None and len(query) < 200 and dice.random() < REFINES:
            person.last = query
            return search, at + dice.uniform(*REFINE_SECONDS), _ASK
        return search, self._next_ask(person, at), _ASK

    def _language(self, person: Person) -> vocabulary.Script:
        # Everybody asks for English titles too.
        return person.script if self._dice.random() < 0.7 else vocabulary.SCRIPTS[0]

    def _continue_burst(self, person: Person, at: float) -> tuple[Search, float, int]:
        query = person.burst.pop()
        search = Search(at - self._began, person.username, person.next_ticket(at), query, "discography")
        if person.burst:
            return search, at + self._dice.uniform(*BURST_SECONDS), _BURST
        return search, self._next_ask(person, at), _ASK


def one_day(seed: int, people: int) -> Iterator[Search]:
    """The searches of the first day."""
    for search in stream(seed, people):
        if search.at_seconds >= DAY_SECONDS:
            return
        yield search
