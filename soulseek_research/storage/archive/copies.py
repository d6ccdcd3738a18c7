"""The copies of a part's file: where each should lie, and whether it is as it was."""

from collections.abc import Callable

from soulseek_research.storage.archive import fingerprint, places, recording
from soulseek_research.storage.archive.catalogue import Part
from soulseek_research.storage.archive.destination import Destination
from soulseek_research.storage.archive.work import Work


def urls(work: Work, part: Part) -> list[str]:
    """Return the places of a part's file: those that the catalogue names, then those that were set up since."""
    return list(dict.fromkeys([*part.places, *(destination.url for destination in work.destinations)]))


async def proven(work: Work, part: Part, url: str, show: Callable[[int], None]) -> Destination:
    """Read a copy from end to end, and return the place that it lies in.

    Args:
        work: The places that are set up.
        part: What the catalogue says of it.
        url: One of `urls`.
        show: Told how many bytes have been read, from the event loop.

    Raises:
        ArchiveError: It is not there, not as it was, without its manifest, or of a kind that is not known here.
        ArchiveBusyError: The place cannot be reached now.
    """
    set_up = {destination.url: destination for destination in work.destinations}
    destination = set_up.get(url) or places.open_destination(url)
    await fingerprint.beside(lambda seen: recording.check_file(destination, part, deep=True, seen=seen), show)
    return destination
