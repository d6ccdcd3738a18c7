"""What every step is given: the database, where archives go, and who is told how far it has come."""

from collections.abc import Sequence
from dataclasses import dataclass

from soulseek_research.storage.archive import places, progress
from soulseek_research.storage.archive.destination import Destination
from soulseek_research.storage.archive.errors import ArchiveError
from soulseek_research.storage.archive.settings import ArchiveSettings
from soulseek_research.storage.location import Location


@dataclass(frozen=True)
class Work:
    """A database and the places where its archives lie."""

    database: Location
    settings: ArchiveSettings
    destinations: Sequence[Destination]
    report: progress.Report = progress.nobody


def work(database: Location, settings: ArchiveSettings, report: progress.Report = progress.nobody) -> Work:
    """Open the places of the settings; nothing is written yet.

    Raises:
        ArchiveError: A place cannot be one, as it is written.
    """
    destinations = [places.open_destination(place) for place in settings.places]
    urls = [destination.url for destination in destinations]
    if len(set(urls)) < len(urls):
        raise ArchiveError(f"a place to archive to is named twice: {', '.join(urls)}")
    return Work(database, settings, destinations, report)
