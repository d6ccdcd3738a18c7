"""What the files of an archive are called: `2026/searches_2026-10.parquet`, and beside each its manifest."""

import re

from soulseek_research.storage.archive.errors import ArchiveError
from soulseek_research.storage.archive.month import Month
from soulseek_research.storage.archive.settings import Format

MANIFEST_SUFFIX = ".manifest.json"

_NAME = re.compile(
    r"(?P<year>[0-9]{4})/searches_(?P<month>[0-9]{4}-[0-9]{2})(?:\.part(?P<part>[1-9][0-9]{0,8}))?"
    r"(?P<anonymous>\.anonymous)?\.(?P<format>" + "|".join(re.escape(one.value) for one in Format) + ")"
)


def file_name(month: Month, part: int, form: Format, *, usernames: bool = True) -> str:
    """Return the name of an archive, relative to its place.

    Args:
        month: Of the searches in it.
        part: 1, 2 ...; the first one is not numbered.
        form: How it is written.
        usernames: False for a file from which retention has removed them.
    """
    number = f".part{part}" if part > 1 else ""
    anonymous = "" if usernames else ".anonymous"
    return f"{month.year:04}/searches_{month}{number}{anonymous}.{form.value}"


def all_names(month: Month, part: int) -> list[str]:
    """Return whatever an archive of a part may be called; an attempt in another format may have left one."""
    return [file_name(month, part, form, usernames=usernames) for form in Format for usernames in (True, False)]


def manifest_name(file_name: str) -> str:
    """Return the name of the manifest of an archive."""
    return file_name + MANIFEST_SUFFIX


def parse(file_name: str) -> tuple[Month, int, Format] | None:
    """Return the month, part and format that an archive's name tells; None when it is not the name of one."""
    found = _NAME.fullmatch(file_name)
    if found is None or found["part"] == "1" or not found["month"].startswith(found["year"]):
        return None
    try:
        month = Month.parse(found["month"])
    except ArchiveError:
        return None
    return month, int(found["part"] or 1), Format(found["format"])


def steps(name: str) -> list[str]:
    """Split a name at its `/`.

    Raises:
        ArchiveError: It leads out of its place, or into what is hidden: no archive is called so.
    """
    found = name.split("/")
    if any(not step or step.startswith(".") or re.search(r"[\x00-\x1f\x7f\\]", step) for step in found):
        raise ArchiveError(f"{name!r} is not the name of an archive: nothing was read or written")
    return found
