"""From a place as people write it to the destination that it means."""

import re
from pathlib import Path

from soulseek_research.storage.archive.destination import Destination
from soulseek_research.storage.archive.errors import ArchiveError
from soulseek_research.storage.archive.folder import Folder

EXAMPLES = "write a folder (/srv/archive) or an object store's URL (s3://BUCKET/PREFIX)"

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://?")


def open_destination(place: str) -> Destination:
    """Return the destination of a place; nothing is looked at yet.

    Args:
        place: A folder, absolute or relative, or the URL of an object store: s3://, gs:// or az://.

    Raises:
        ArchiveError: It cannot be a place, as it is written.
    """
    found = _SCHEME.match(place)
    if found is not None:
        # Only who uses an object store waits for its library.
        from soulseek_research.storage.archive import object_store  # noqa: PLC0415

        if found[1] not in object_store.SCHEMES:
            raise ArchiveError(f'archives cannot be kept by the scheme "{found[1]}": {EXAMPLES}')
        return object_store.ObjectStore(place)
    if not place.strip() or "\0" in place:
        raise ArchiveError(f"the place for archives is empty: {EXAMPLES}")
    try:
        return Folder(Path(place).expanduser().absolute())
    except RuntimeError:
        raise ArchiveError(f"{place}: there is no such user's home") from None
