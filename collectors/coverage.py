"""The ledger of listening: when a collector truly heard the network, and where in the tree.

A *stretch* is a time at one place, from the first search heard there to the last one, without a pause in between. What
came after the last one nobody can vouch for: a connection may be dead for minutes before it is known. A researcher can
so tell "nobody searched" (inside a stretch) from "nobody listened" (outside all of them).
"""

import datetime as dt
import math
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Literal

from collectors.clock import ClockReading
from collectors.counts import Counts
from collectors.keys import KeyRingError
from collectors.search import Row

Role = Literal["child", "branch root", "addressed"]
Snapshot = dict[str, list[dict[str, Any]]]

STARVED = "starved"
PAUSED = "paused"
CLOCK_SET_BACK = "clock set back"
MOVED = "place changed"
STOPPED = "stopped"
PROCESS_DIED = "process died"

# Drops of one reason that come closer together than this are one gap: a full spool is one event, not one a second.
GAP_MERGE_SECONDS = 60.0
SILENCE_SECONDS = 120.0
# Less is how a clock is kept right; its searches lie inside the stretch all the same.
CLOCK_STEP_SECONDS = 1.0
# A branch level is an unsigned 32-bit number that a stranger chose; the database keeps a signed one.
MAX_LEVEL = 2**31 - 1


class _Totals:
    """What had been counted at one moment."""

    __slots__ = ("dropped", "duplicates", "kept", "refused")

    def __init__(self, counts: Counts, given_up: dict[str, int]) -> None:
        self.kept = counts.kept
        self.duplicates = counts.duplicates
        self.refused = dict(counts.refused)
        self.dropped = _increase(given_up, counts.dropped)


class _Stretch:
    __slots__ = (
        "clock",
        "end_reason",
        "ended",
        "level",
        "lost",
        "mark",
        "role",
        "root",
        "spooled",
        "started",
        "totals",
        "uid",
    )

    def __init__(self, role: Role, level: int, root: str | None, started: float, mark: _Totals) -> None:
        self.uid = uuid.uuid4()
        self.role, self.level, self.root = role, level, root
        self.started = self.ended = started
        self.end_reason: str | None = None
        self.mark = mark  # everything counted since then is its own
        self.totals: _Totals | None = None  # at its end
        self.lost: dict[str, int] = {}  # counted as kept, then dropped before the spool had them
        self.spooled: dict[str, Any] | None = None  # as the spool last took it
        self.clock: ClockReading | None = None

    def form(self, now: _Totals) -> dict[str, Any]:
        """As SQL's `record_coverage` reads it: all of its current values, so that the newest simply replaces."""
        totals = self.totals or now
        refused = _increase(self.mark.refused, totals.refused)
        dropped = _increase(self.mark.dropped, totals.dropped)
        for reason, searches in self.lost.items():
            dropped[reason] = dropped.get(reason, 0) + searches
        return {
            "stretch_id": str(self.uid),
            "started_at": _iso(self.started),
            # Half open, so that a search of the same millisecond lies inside.
            "ended_at": _iso(max(self.started, self.ended) + 0.001),
            "end_reason": self.end_reason,
            "role": self.role,
            "branch_level": self.level,
            "branch_root": self.root,
            "kept": totals.kept - self.mark.kept - sum(self.lost.values()),
            "duplicates": totals.duplicates - self.mark.duplicates,
            "refused": sum(refused.values()),
            "dropped": sum(dropped.values()),
            "reasons": refused | dropped,
            "clock_offset_ms": self.clock and round(self.clock.offset_ms, 3),
            "clock_round_trip_ms": self.clock and round(self.clock.round_trip_ms, 3),
            "clock_synchronised": self.clock and self.clock.synchronised,
        }


class _Gap:
    __slots__ = ("ended", "reason", "searches", "spooled", "started", "uid")

    def __init__(self, reason: str, started: float) -> None:
        self.uid = uuid.uuid4()
        self.reason, self.started, self.ended, self.searches = reason, started, started, 0
        self.spooled: dict[str, Any] | None = None

    def form(self) -> dict[str, Any]:
        return {
            "gap_id": str(self.uid),
            "reason": self.reason,
            "started_at": _iso(self.started),
            "ended_at": _iso(max(self.started, self.ended)),
            "searches": self.searches,
        }


class Ledger:
    """Turns what happens to the listening into stretches and gaps, and hands their news to each spool chunk.

    Not thread-safe: everything is called from the event loop. All times are Unix seconds of the collector's clock.

    What is counted between two stretches (say, strangers refused while there is no parent) is counted to the next.

    Args:
        counts: where the intake and the listener count.
        pseudonym: makes a pseudonym of a username at a time (Unix milliseconds), as for the intake.
        now: when counting began.
        silence_seconds: nobody can say that we listened through a longer silence.
    """

    def __init__(
        self,
        counts: Counts,
        pseudonym: Callable[[str, int], str],
        *,
        now: float,
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        self._counts = counts
        self._silence_seconds = silence_seconds
        self._pseudonym = pseudonym
        self._given_up: dict[str, int] = {}  # drops that are in the stretches already, not in `_Totals`
        self._mark = self._totals()
        self._place: tuple[Role, int, str | None] | None = None  # where we are, before a search has proved it
        self._open: _Stretch | None = None
        self._ended: list[_Stretch] = []  # that the spool does not have yet
        self._gaps: list[_Gap] = []
        self._gapped = dict(counts.dropped)  # drops that have become gaps
        self._clock: ClockReading | None = None
        self._last_snapshot = now

    @property
    def place_now(self) -> tuple[Role, int] | None:
        """Role and level as last told or proved, for showing."""
        if self._place is not None:
            return self._place[:2]
        return (self._open.role, self._open.level) if self._open is not None else None

    def place(self, role: Role, level: int, root: str | None, now: float) -> None:
        """Says where in the tree we are from now on. A stretch begins with the first search heard there.

        Args:
            role: "child" below a parent, "branch root" when the server sends us the searches.
            level: our own branch level.
            root: username of the branch root, pseudonymised here and not kept.
            now: Unix seconds.
        """
        place = (role, min(max(level, 0), MAX_LEVEL), self._name(root, now))
        stretch = self._open
        if stretch is not None and (stretch.role, stretch.level, stretch.root) == place:
            self._place = None
            return
        if stretch is not None and stretch.role != "addressed":
            self._end(stretch, MOVED)
        self._place = place

    def heard(self, now: float, *, addressed: bool = False) -> None:
        """A search was heard: the proof that we listen. Cheap; best called before `Intake.hear`, duplicates included.

        Args:
            now: Unix seconds.
            addressed: it was a FileSearch, sent to us alone, which proves no place in the tree.
        """
        stretch = self._open
        if stretch is None or (self._place is not None and not addressed):
            self._begin(now, addressed=addressed)
        elif addressed and stretch.role != "addressed":
            return
        elif stretch.ended - CLOCK_STEP_SECONDS <= now <= stretch.ended + self._silence_seconds:
            stretch.ended = max(stretch.ended, now)
        else:
            # The machine slept, or its clock was set: nobody can say that we listened in between.
            if stretch.role != "addressed":
                self._place = stretch.role, stretch.level, stretch.root
            self._end(stretch, PAUSED if now > stretch.ended else CLOCK_SET_BACK)
            self._begin(now, addressed=addressed)

    def lost(self, reason: str) -> None:
        """The place in the tree is lost: ends the stretch, at the last search that was heard."""
        self._place = None
        if self._open is not None:
            self._end(self._open, reason)

    def set_clock(self, reading: ClockReading) -> None:
        """Takes a new comparison of our clock with the database's."""
        self._clock = reading

    def snapshot(self, now: float) -> Snapshot:
        """The news since the last snapshot that was spooled, to go into the chunk taken at the same moment.

        Returns:
            `stretches` and `gaps`, each with all of its current values; the same again until `spooled` is called.
        """
        self._find_gaps(now)
        totals = self._totals()
        if self._open is not None:
            self._open.clock = self._clock
        stretches = [*self._ended, self._open] if self._open is not None else self._ended
        stretch_forms = [(stretch, stretch.form(totals)) for stretch in stretches]
        gap_forms = [(gap, gap.form()) for gap in self._gaps]
        return {
            "stretches": [form for stretch, form in stretch_forms if form != stretch.spooled],
            "gaps": [form for gap, form in gap_forms if form != gap.spooled],
        }

    def spooled(self, snapshot: Snapshot) -> None:
        """The spool has taken this snapshot: it need not be told again."""
        forms = {form["stretch_id"]: form for form in snapshot["stretches"]}
        for stretch in [*self._ended, self._open]:
            if stretch is not None and (form := forms.get(str(stretch.uid))):
                stretch.spooled = form
        self._ended = [
            stretch for stretch in self._ended if stretch.spooled is None or not stretch.spooled["end_reason"]
        ]
        gaps = {form["gap_id"]: form for form in snapshot["gaps"]}
        for gap in self._gaps:
            gap.spooled = gaps.get(str(gap.uid), gap.spooled)
        horizon = self._last_snapshot - GAP_MERGE_SECONDS
        self._gaps = [gap for gap in self._gaps if gap.ended > horizon or gap.form() != gap.spooled]

    def dropped(self, snapshot: Snapshot, rows: Sequence[Row], reason: str) -> None:
        """The spool refused the chunk of this snapshot and its searches are given up: counts them, and makes a gap.

        Call it instead of `Counts.drop`. The stretches they were heard in no longer count them as kept. The news of the
        snapshot are told again by the next one.
        """
        stretches = {str(stretch.uid): stretch for stretch in [*self._ended, self._open] if stretch is not None}
        for form in snapshot["stretches"]:
            if (stretch := stretches.get(form["stretch_id"])) is not None:
                unspooled = form["kept"] - (stretch.spooled["kept"] if stretch.spooled else 0)
                stretch.lost[reason] = stretch.lost.get(reason, 0) + unspooled
        if rows:
            self._counts.drop(reason, len(rows))
            self._given_up[reason] = self._given_up.get(reason, 0) + len(rows)
            self._gapped[reason] = self._gapped.get(reason, 0) + len(rows)
            self._add_gap(reason, len(rows), rows[0][0] / 1000, rows[-1][0] / 1000)

    def _begin(self, now: float, *, addressed: bool) -> None:
        if addressed or self._place is None:
            place: tuple[Role, int, str | None] = ("addressed", 0, None)
        else:
            place, self._place = self._place, None
        if self._open is not None:
            self._end(self._open, MOVED)
        self._open = _Stretch(*place, now, self._mark)

    def _end(self, stretch: _Stretch, reason: str) -> None:
        stretch.end_reason = reason
        stretch.clock = self._clock
        stretch.totals = self._mark = self._totals()
        self._ended.append(stretch)
        self._open = None

    def _name(self, root: str | None, now: float) -> str | None:
        try:
            return None if root is None else self._pseudonym(root, int(now * 1000))
        except KeyRingError:
            return None

    def _totals(self) -> _Totals:
        return _Totals(self._counts, self._given_up)

    def _find_gaps(self, now: float) -> None:
        """Whoever drops a search counts it in `Counts`; that it becomes a gap too is seen to here, once for all."""
        for reason, searches in _increase(self._gapped, self._counts.dropped).items():
            self._gapped[reason] = self._counts.dropped[reason]
            self._add_gap(reason, searches, self._last_snapshot, now)
        self._last_snapshot = now

    def _add_gap(self, reason: str, searches: int, since: float, until: float) -> None:
        gap = next((gap for gap in reversed(self._gaps) if gap.reason == reason), None)
        if gap is None or since > gap.ended + GAP_MERGE_SECONDS:
            gap = _Gap(reason, since)
            self._gaps.append(gap)
        gap.ended = max(gap.ended, until)
        gap.searches += searches


def _increase(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {key: value - before.get(key, 0) for key, value in after.items() if value != before.get(key, 0)}


def _iso(seconds: float) -> str:
    """To the millisecond, in UTC, as PostgreSQL reads it."""
    milliseconds = math.floor(seconds * 1000)
    moment = dt.datetime.fromtimestamp(milliseconds // 1000, dt.UTC)
    return moment.replace(microsecond=milliseconds % 1000 * 1000).isoformat(timespec="milliseconds")
