"""Which months somebody asks for, on the command line or as the parameters of a flow."""

from soulseek_research.storage.archive import month as calendar
from soulseek_research.storage.archive.errors import ArchiveError
from soulseek_research.storage.archive.month import Month


def months(one: str | None, first: str | None, last: str | None) -> list[Month] | None:
    """The months that are asked for, as one or as a range with both ends included; None when none is.

    Raises:
        ArchiveError: That is no month, or no range.
    """
    if one is not None and (first is not None or last is not None):
        raise ArchiveError("give one month or a range of months, not both")
    if (first is None) != (last is None):
        raise ArchiveError("give both ends of the range of months, the first and the last")
    if first is not None and last is not None:
        return list(calendar.between(Month.parse(first), Month.parse(last)))
    return None if one is None else [Month.parse(one)]
