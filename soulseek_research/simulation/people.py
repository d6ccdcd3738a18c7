"""One person of the network: a name, a client, hours online, a wishlist and a way of asking."""

from __future__ import annotations

import enum
import itertools
import random

from . import vocabulary
from .catalogue import mix
from .vocabulary import Script

DAY_SECONDS = 86400.0
TICKETS = 1 << 32

# Kinds of people: share, hours online (low, high; 24 is always), wishes (low, high; 0 is none), what they ask a day,
# and how often a question is the first of a discography. Together about 130 searches a person and day, half of them
# wishes, and few wishlists so short that they come round within the day: else 96 % of a day's queries would not be
# unique. Some ask much more than others, by a factor whose mean is 1.
_KINDS: tuple[tuple[float, tuple[int, int], tuple[int, int], float, float], ...] = (
    (0.44, (24, 24), (120, 1500), 20.0, 0.010),
    (0.02, (24, 24), (3, 40), 20.0, 0.010),
    (0.20, (2, 8), (40, 600), 30.0, 0.010),
    (0.30, (1, 7), (0, 0), 82.0, 0.015),
    (0.04, (6, 16), (0, 0), 330.0, 0.080),
)


_KIND_SHARES = tuple(itertools.accumulate(kind[0] for kind in _KINDS))


class Client(enum.Enum):
    """What a person searches with; each counts its tickets in its own way."""

    QT = "qt"
    NICOTINE = "nicotine"
    """Reuses the ticket of a wish each time the wish comes round."""
    LIBRARY = "library"
    """Starts at 2 in each session."""


class Person:
    """One person and what is to come next. Made by `make`."""

    __slots__ = (
        "asks_a_second", "burst", "burst_share", "client", "last", "login", "number", "online", "script", "ticket",
        "ticket_session", "username", "wish", "wishes",
    )  # fmt: skip

    def __init__(self, number: int, username: str, client: Client, script: Script) -> None:
        self.number = number
        self.username = username
        self.client = client
        self.script = script
        self.login = 0.0
        """When the first session began, in seconds; at most a day before the stream."""
        self.online = DAY_SECONDS
        """Seconds of a session; there is one a day."""
        self.asks_a_second = 0.0
        """While online."""
        self.burst_share = 0.0
        self.wishes = 0
        self.wish = 0
        """The wish whose turn it is."""
        self.burst: list[str] = []
        """What is left of a discography, last first."""
        self.last: str | None = None
        """The query that is about to be asked in other words."""
        self.ticket = mix(number, 3) % (TICKETS >> 1)
        self.ticket_session = -1

    def session(self, at: float) -> tuple[float, float]:
        """Begin and end of the session that holds this moment, or of the next one."""
        if self.online >= DAY_SECONDS:
            return self.login, float("inf")
        began = self.login + (at - self.login) // DAY_SECONDS * DAY_SECONDS
        if at >= began + self.online:
            began += DAY_SECONDS
        return began, began + self.online

    def next_ticket(self, at: float) -> int:
        """A fresh ticket, as this person's client counts."""
        if self.client is Client.LIBRARY:
            session = int((at - self.login) // DAY_SECONDS)
            if session != self.ticket_session:
                self.ticket, self.ticket_session = 1, session
        self.ticket = (self.ticket + 1) % TICKETS
        return self.ticket

    def wish_ticket(self, wish: int) -> int:
        """The ticket that stays with a wish."""
        return (TICKETS >> 1) + (mix(self.number, 4) + wish) % (TICKETS >> 1)


_CLIENTS = (Client.QT, Client.NICOTINE, Client.LIBRARY)
_CLIENT_SHARES = (0.55, 0.93, 1.0)
_SCRIPT_SHARES = tuple(itertools.accumulate(script.share for script in vocabulary.SCRIPTS))


def make(number: int, dice: random.Random, *, rhythm: bool) -> Person:
    """The person of this number, made with these dice."""
    client = dice.choices(_CLIENTS, cum_weights=_CLIENT_SHARES)[0]
    script = dice.choices(vocabulary.SCRIPTS, cum_weights=_SCRIPT_SHARES)[0]
    person = Person(number, username(number, script), client, script)
    _, hours, wishes, asks, person.burst_share = dice.choices(_KINDS, cum_weights=_KIND_SHARES)[0]
    person.online = min(DAY_SECONDS, dice.uniform(*hours) * 3600)
    person.asks_a_second = asks * dice.lognormvariate(-0.32, 0.8) / person.online
    person.wishes = round(wishes[0] * (wishes[1] / wishes[0]) ** dice.random()) if wishes[0] else 0
    hour = dice.gauss(19, 2.5) - script.utc_offset_hours if rhythm else dice.uniform(0, 24)
    person.login = hour % 24 * 3600 - DAY_SECONDS
    return person


def username(number: int, script: Script) -> str:
    """A name that no other person has: most are ASCII, as the server wants it."""
    handle = vocabulary.HANDLES[number % len(vocabulary.HANDLES)]
    creature = vocabulary.CREATURES[number // 20 % len(vocabulary.CREATURES)]
    rest = number // 400
    form = mix(number, 5) % 100
    if form < 60:
        return f"{handle}{creature}{rest}"
    if form < 80:
        return f"{handle}_{creature}-{rest}"
    if form < 95:
        return f"{creature.title()} {handle} {rest}"
    return f"{script.words[number % len(script.words)]}{number}"
