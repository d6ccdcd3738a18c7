"""A catalogue of artists, albums and tracks that nobody wrote: everything follows from a number, nothing is stored."""

from __future__ import annotations

from . import vocabulary
from .vocabulary import Script

ARTISTS = 400_000
ALBUMS = 12
# Popularity falls with the rank to this power. With it, 96 % of what a day's 30,000 people ask is asked once.
POPULARITY_EXPONENT = 0.5

HITS = 60
"""How many queries are what everybody asks."""

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_UNIT = 1 << 24

HAS_FORMAT, HAS_EXTRA, HAS_EXCLUSION, HAS_EMOJI = 0.22, 0.10, 0.05, 0.01


def mix(*numbers: int) -> int:
    """64 bits that depend on all of these numbers and on nothing else (no hash seed, no platform)."""
    mixed = 0x243F6A8885A308D3
    for number in numbers:
        mixed = ((mixed ^ number) * _GOLDEN) & _MASK
        mixed ^= mixed >> 31
    return (mixed * 0xBF58476D1CE4E5B9 & _MASK) >> 3


def title(script: Script, number: int, words: int) -> str:
    """A title of so many words, one of them seldom met."""
    number, rare = divmod(number, len(script.names) ** 2)
    first, second = divmod(rare, len(script.names))
    chosen = [script.names[first] + script.names[second]]
    for _ in range(words - 1):
        number, index = divmod(number, len(script.words))
        chosen.append(script.words[index])
    if number & 1:
        chosen.reverse()
    return script.space.join(chosen)


def artist(script: Script, rank: int) -> str:
    """The name of the artist of this rank."""
    number = mix(len(script.words), rank)
    number, form = divmod(number, 8)
    if form == 0:
        return title(script, number, 2)
    pieces = []
    for _ in range(3 if form < 4 else 2):
        number, index = divmod(number, len(script.names))
        pieces.append(script.names[index])
    name = script.joint.join(pieces).title()
    if form in (1, 4):
        return f"{name} {script.words[number % len(script.words)]}"
    return name


def popular(unit: int) -> int:
    """An artist's rank, low ranks more often, from a number below 2**24."""
    return int(ARTISTS * (unit / _UNIT) ** (1 / (1 - POPULARITY_EXPONENT)))


def album(script: Script, rank: int, number: int) -> str:
    """The title of an artist's album of this number."""
    mixed = mix(rank, number, 7)
    return title(script, mixed >> 2, 1 + (mixed & 3))


def track(script: Script, rank: int, number: int) -> str:
    """The title of an artist's track of this number."""
    mixed = mix(rank, number, 11)
    return title(script, mixed >> 2, 2 + (mixed & 1))


def discography(script: Script, number: int, *, albums: int) -> list[str]:
    """What someone asks who works through an artist: an album a query, always in the same format."""
    number, unit = divmod(number, _UNIT)
    rank = popular(unit)
    name = artist(script, rank)
    suffix = "" if number % 3 else f" {vocabulary.FORMATS[number // 3 % len(vocabulary.FORMATS)]}"
    return [f"{name} {album(script, rank, one)}{suffix}" for one in range(albums)]


def query(script: Script, number: int) -> str:
    """One query as a person types it, from a number of 61 bits."""
    number, unit = divmod(number, _UNIT)
    rank = popular(unit)
    number, form = divmod(number, 16)
    number, which = divmod(number, 256)
    if form < 8:
        text = f"{artist(script, rank)} {track(script, rank, which)}"
    elif form < 13:
        text = f"{artist(script, rank)} {album(script, rank, which % ALBUMS)}"
    elif form == 13:
        text = f"{track(script, rank, which)} {1960 + number % 66}"
    elif form == 14:
        text = f"{vocabulary.GENRES[rank % len(vocabulary.GENRES)]} {title(script, mix(rank, which), 2)}"
    else:
        # A leading star stands for the letter before: people's way around words that the server filters.
        text = f"*{artist(script, rank)[1:]} {track(script, rank, which)}"
    return _narrow(text, mix(rank, which, number))


def hit(number: int) -> str:
    """A query that many ask these days, the first ones most."""
    number, unit = divmod(number, _UNIT)
    which = int(HITS * (unit / _UNIT) ** 3)
    script = vocabulary.SCRIPTS[0] if (which + 1) % 4 else vocabulary.SCRIPTS[mix(which, 13) % len(vocabulary.SCRIPTS)]
    return f"{artist(script, which)} {album(script, which, 0)}".lower()


def _narrow(text: str, number: int) -> str:
    """Add what narrows a search: a format, an edition, an exclusion."""
    number, percent = divmod(number, 100)
    number, choice = divmod(number, 64)
    number, case = divmod(number, 8)
    if percent < HAS_FORMAT * 100:
        text = f"{text} {vocabulary.FORMATS[choice % len(vocabulary.FORMATS)]}"
    elif percent < (HAS_FORMAT + HAS_EXTRA) * 100:
        text = f"{text} {vocabulary.EXTRAS[choice % len(vocabulary.EXTRAS)]}"
    elif percent < (HAS_FORMAT + HAS_EXTRA + HAS_EXCLUSION) * 100:
        text = f"{text} {vocabulary.EXCLUSIONS[choice % len(vocabulary.EXCLUSIONS)]}"
    elif percent > 100 - HAS_EMOJI * 100 - 1:
        text = f"{text} {vocabulary.EMOJI[choice % len(vocabulary.EMOJI)]}"
    return text.lower() if case < 5 else text


def refine(text: str, number: int) -> str:
    """The same wish in other words: a word less, or a format more."""
    words = text.split(" ")
    if len(words) > 2 and number % 3:
        del words[number // 3 % len(words)]
        return " ".join(words)
    return f"{text} {vocabulary.FORMATS[number // 3 % len(vocabulary.FORMATS)]}"
