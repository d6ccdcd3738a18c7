"""A calendar month in UTC, as searches are partitioned and archived."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime

from soulseek_research.storage.archive.errors import ArchiveError

_WRITTEN = re.compile(r"(\d{4})-(\d{2})")


@dataclass(frozen=True, order=True)
class Month:
    """A month; ordered by time, written as `2026-10`."""

    year: int
    number: int  # 1 to 12

    @classmethod
    def parse(cls, text: str) -> "Month":
        """Read `YYYY-MM`.

        Raises:
            ArchiveError: It is not a month.
        """
        match = _WRITTEN.fullmatch(text.strip())
        if match is None or not (1 <= int(match[2]) <= 12 and int(match[1]) >= 1):
            raise ArchiveError(f'"{text}" is not a month: write it as YYYY-MM, 2026-10 say')
        return cls(int(match[1]), int(match[2]))

    @classmethod
    def of(cls, moment: date | datetime) -> "Month":
        """The month of a day, or of a moment (which has to know its time zone)."""
        if isinstance(moment, datetime):
            moment = moment.astimezone(UTC)
        return cls(moment.year, moment.month)

    @property
    def first_day(self) -> date:
        """As the catalogue names the month."""
        return date(self.year, self.number, 1)

    @property
    def start(self) -> datetime:
        """The first moment of it, UTC."""
        return datetime(self.year, self.number, 1, tzinfo=UTC)

    @property
    def end(self) -> datetime:
        """The first moment that is no longer of it, UTC."""
        return self.plus(1).start

    def plus(self, months: int) -> "Month":
        """The month so many later, or earlier."""
        years, number = divmod(self.number - 1 + months, 12)
        return Month(self.year + years, number + 1)

    def __str__(self) -> str:
        return f"{self.year:04}-{self.number:02}"


def between(first: Month, last: Month) -> Iterator[Month]:
    """All months from the first to the last, both included.

    Raises:
        ArchiveError: The last lies before the first.
    """
    if last < first:
        raise ArchiveError(f"{last} lies before {first}: give the earlier month first")
    while first <= last:
        yield first
        first = first.plus(1)
