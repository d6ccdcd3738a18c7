"""The catalogue: a row of `archives` for each part of a month, which is the truth about how far it has come."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import asyncpg

from soulseek_research.storage.archive.errors import ArchiveError
from soulseek_research.storage.archive.month import Month
from soulseek_research.storage.archive.settings import Format
from soulseek_research.storage.archive.tally import Tally


class State(StrEnum):
    """How far a part has come: see migration 0004."""

    SEALED = "sealed"
    EXPORTED = "exported"
    VERIFIED = "verified"
    ARCHIVED = "archived"
    EXPIRED = "expired"


@dataclass(frozen=True)
class Part:
    """One part of a month. Sizes are in bytes, times UTC; what is None is not known yet."""

    month: Month
    number: int  # 1, 2 ...
    state: State
    table_name: str | None  # the frozen table that holds its rows now
    format: Format | None
    file_path: str | None  # beneath each of `places`
    places: Sequence[str]  # destinations, without secrets
    rows: int | None
    file_size: int | None
    sha256: str | None  # of the file, in hex
    checksum: str | None  # of the rows
    tally: Tally | None
    first_timestamp: datetime | None
    last_timestamp: datetime | None
    key_ids: Sequence[str] | None
    usernames: bool  # False when retention has removed them
    table_size: int | None
    column_sizes: dict[str, int] | None  # in the file, by column
    seconds: float  # of work on it
    software: str | None
    sealed_at: datetime | None
    verified_at: datetime | None
    archived_at: datetime | None
    deleted_at: datetime | None  # when the sealed table was dropped
    restored_at: datetime | None

    @property
    def name(self) -> str:
        """As people call it: `2026-10`, or `2026-10 part 2`."""
        return str(self.month) if self.number == 1 else f"{self.month} part {self.number}"


async def parts(connection: asyncpg.Connection, month: Month | None = None) -> list[Part]:
    """Return the parts of a month, or of all, in order."""
    where = "" if month is None else "WHERE month = $1"
    rows = await connection.fetch(
        f"SELECT * FROM archives {where} ORDER BY month, part",  # noqa: S608 - one of two constants
        *([] if month is None else [month.first_day]),
    )
    return [_part(row) for row in rows]


async def part(connection: asyncpg.Connection, month: Month, number: int) -> Part:
    """Return one part.

    Raises:
        ArchiveError: There is no such part.
    """
    row = await connection.fetchrow("SELECT * FROM archives WHERE month = $1 AND part = $2", month.first_day, number)
    if row is None:
        raise ArchiveError(f"nothing is known of part {number} of {month}: see `soulseek-research archives`")
    return _part(row)


async def change(connection: asyncpg.Connection, one: Part, **columns: Any) -> Part:
    """Change columns of a part's row and return the part as it is then.

    Args:
        connection: Of the archivist.
        one: The part.
        columns: By their names in the table; dictionaries become JSON.
    """
    values = [json.dumps(value) if isinstance(value, dict) else value for value in columns.values()]
    assignments = ", ".join(f"{column} = ${number}" for number, column in enumerate(columns, 3))
    row = await connection.fetchrow(
        f"UPDATE archives SET {assignments} WHERE month = $1 AND part = $2 RETURNING *",  # noqa: S608 - our own names
        one.month.first_day,
        one.number,
        *values,
    )
    assert row is not None, "no row of the catalogue is ever deleted"
    return _part(row)


def _part(row: asyncpg.Record) -> Part:
    return Part(
        month=Month.of(row["month"]),
        number=row["part"],
        state=State(row["state"]),
        table_name=row["table_name"],
        format=Format(row["format"]) if row["format"] is not None else None,
        file_path=row["file_path"],
        places=row["places"],
        rows=row["record_count"],
        file_size=row["file_size"],
        sha256=row["sha256"],
        checksum=row["checksum"],
        tally=Tally.from_json(json.loads(row["tally"])) if row["tally"] is not None else None,
        first_timestamp=row["first_timestamp"],
        last_timestamp=row["last_timestamp"],
        key_ids=row["key_ids"],
        usernames=row["usernames"],
        table_size=row["table_size"],
        column_sizes=json.loads(row["column_sizes"]) if row["column_sizes"] is not None else None,
        seconds=row["seconds"],
        software=row["software"],
        sealed_at=row["sealed_at"],
        verified_at=row["verified_at"],
        archived_at=row["archived_at"],
        deleted_at=row["deleted_at"],
        restored_at=row["restored_at"],
    )
