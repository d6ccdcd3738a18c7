"""The manifest beside each archive: with it the file explains itself, and a lost catalogue is rebuilt from them."""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

import pydantic
from pydantic import AwareDatetime, BeforeValidator, Field, NonNegativeInt, PositiveInt

from soulseek_research.storage.archive import described, layout
from soulseek_research.storage.archive.described import Column
from soulseek_research.storage.archive.errors import ArchiveError
from soulseek_research.storage.archive.month import Month
from soulseek_research.storage.archive.settings import Format
from soulseek_research.storage.archive.tally import Tally

MANIFEST_VERSION = 1


@dataclass(frozen=True)
class Stretch:
    """A time in which one collector listened at one place in the tree: a row of `coverage`."""

    client_id: str
    started_at: AwareDatetime
    ended_at: AwareDatetime
    role: str
    branch_level: int
    kept: int
    duplicates: int
    refused: int
    dropped: int
    end_reason: str | None  # None: it was listening still when this was written


@dataclass(frozen=True)
class Gap:
    """What is missing: a row of `gaps`."""

    client_id: str
    started_at: AwareDatetime
    ended_at: AwareDatetime
    reason: str
    searches: int | None
    detail: str | None


def _month(value: Any) -> Any:
    try:
        return Month.parse(value) if isinstance(value, str) else value
    except ArchiveError as error:
        raise ValueError(str(error)) from None


@dataclass(frozen=True)
class Manifest:
    """All that is known of an archive. Sizes are in bytes, times UTC."""

    month: Annotated[Month, BeforeValidator(_month)]
    part: PositiveInt
    format: Format
    file_name: str  # relative to its place
    file_size: NonNegativeInt
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]  # of the file
    rows: NonNegativeInt
    tally: Tally
    checksum: str  # of the rows
    first_timestamp: AwareDatetime | None
    last_timestamp: AwareDatetime | None
    key_ids: tuple[str, ...]  # of the pseudonyms in it
    usernames: bool  # False when retention has removed them
    coverage: tuple[Stretch, ...]
    gaps: tuple[Gap, ...]
    software: str
    postgresql: str
    sealed_at: AwareDatetime | None
    verified_at: AwareDatetime | None
    archived_at: AwareDatetime
    table_size: int | None = None
    column_sizes: dict[str, int] | None = None
    schema: tuple[Column, ...] = described.COLUMNS_DESCRIBED
    manifest_version: int = MANIFEST_VERSION


_ADAPTER = pydantic.TypeAdapter(Manifest)
_TABLES = ("coverage", "gaps")


def dump(manifest: Manifest) -> bytes:
    """Write a manifest as JSON: sorted and indented, with a row a line in its tables."""
    document = {name: _plain(getattr(manifest, name)) for name in _names(Manifest)}
    document |= {
        "about": described.ABOUT.format(file=manifest.file_name.rpartition("/")[2], month=manifest.month),
        "checksum_definition": described.CHECKSUM,
        "coverage": {"about": described.COVERAGE} | _folded(Stretch, manifest.coverage),
        "format_definition": described.FORMATS[manifest.format],
        "gaps": {"about": described.GAPS} | _folded(Gap, manifest.gaps),
        "tally_definition": described.TALLY,
    }
    return (_indented(document) + "\n").encode()


def load(data: bytes, where: str) -> Manifest:
    """Read a manifest.

    Args:
        data: The file.
        where: What it is called, for people.

    Raises:
        ArchiveError: It is not a manifest, of a version or of columns that are not known here, or contradicts itself.
    """
    try:
        document = json.loads(data)
    except ValueError:
        raise ArchiveError(f"{where} is no manifest: it is not JSON; it is damaged, or another file") from None
    if not isinstance(document, dict) or "manifest_version" not in document:
        raise ArchiveError(f"{where} is no manifest: it is damaged, or another file")
    if document["manifest_version"] != MANIFEST_VERSION:
        raise ArchiveError(
            f"{where} is a manifest of version {document['manifest_version']!r}, and {MANIFEST_VERSION} is known here: "
            "upgrade soulseek-research"
        )
    try:
        unfolded = {**document, **{name: _unfolded(document[name]) for name in _TABLES}}
        found = _ADAPTER.validate_json(json.dumps(unfolded), strict=True)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(step) for step in first["loc"])
        raise ArchiveError(f"{where} is damaged, or no manifest: {field}: {first['msg']}") from None
    except (LookupError, TypeError, ValueError):
        raise ArchiveError(f"{where} is damaged, or no manifest: its coverage or gaps are no table") from None
    _check(found, where)
    return found


def _check(manifest: Manifest, where: str) -> None:
    known = [(column.name, column.type) for column in described.COLUMNS_DESCRIBED]
    if [(column.name, column.type) for column in manifest.schema] != known:
        raise ArchiveError(f"{where}: the archive has columns that are not known here: upgrade soulseek-research")
    if layout.parse(manifest.file_name) != (manifest.month, manifest.part, manifest.format):
        raise ArchiveError(f"{where} contradicts itself: {manifest.file_name} is not the name of that month and part")
    if manifest.tally.rows != manifest.rows:
        raise ArchiveError(f"{where} contradicts itself: {manifest.rows} rows, and {manifest.tally.rows} in the tally")


def _names(kind: type) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def _plain(value: Any) -> Any:
    """What JSON can hold."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, Month):
        return str(value)
    if isinstance(value, Tally | Column):
        return dataclasses.asdict(value)
    return [_plain(one) for one in value] if isinstance(value, tuple) else value


def _folded(kind: type, entries: Iterable[Any]) -> dict[str, Any]:
    """Objects become a table, its columns named once: of a month there may be thousands."""
    names = _names(kind)
    return {"columns": names, "rows": [[_plain(getattr(entry, name)) for name in names] for entry in entries]}


def _unfolded(table: dict[str, Any]) -> list[dict[str, Any]]:
    return [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]


def _indented(value: Any, indent: str = "") -> str:
    """JSON with what is short on a line of its own."""
    deeper = indent + "  "
    if isinstance(value, Mapping) and value:
        lines = [f"{deeper}{json.dumps(name)}: {_indented(value[name], deeper)}" for name in sorted(value)]
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(one, list | Mapping) for one in value):
        return "[\n" + ",\n".join(deeper + _line(one) for one in value) + f"\n{indent}]"
    return _line(value)


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
