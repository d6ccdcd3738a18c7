"""What collectors have kept in a data directory: searches under their real names, and the ledger."""

import asyncio
import base64
import dataclasses
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

from collectors.keys import KeyRing
from collectors.pseudonym import Pseudonymiser
from soulseek_research.storage.embedded import EmbeddedServer
from tests import databases
from tests.forwarded import Search


@dataclasses.dataclass(frozen=True)
class Kept:
    """The content of the database.

    Attributes:
        searches: in the order in which they were stored.
        times: when each was heard (Unix seconds).
        stretches: of coverage, by when they began.
    """

    searches: list[Search]
    times: list[float]
    stretches: list[dict[str, Any]]
    gaps: list[dict[str, Any]]
    segments: list[dict[str, Any]]
    kept_by_minutes: int

    def counted(self, what: str) -> int:
        """The sum of one of the ledger's counters."""
        return sum(int(one[what]) for one in self.stretches)

    def covers(self, moment: float, until: float | None = None) -> bool:
        """Whether somebody listened then, or from then on without a break, as the ledger says."""
        last = moment if until is None else until
        return any(
            one["started_at"].timestamp() <= moment and last < one["ended_at"].timestamp() for one in self.stretches
        )

    def endings(self) -> Counter[tuple[str, int, str]]:
        """How often stretches at which place ended for which reason."""
        return Counter((one["role"], one["branch_level"], one["end_reason"]) for one in self.stretches)


def read(data_dir: Path) -> Kept:
    """Starts the embedded database and reads everything; nobody else may be using it."""
    server = EmbeddedServer(data_dir / "postgres")
    try:
        return asyncio.run(_read(server.start(), Pseudonymiser(KeyRing(data_dir / "keys"), [])))
    finally:
        server.release(wait=True)


async def _read(dsn: str, names: Pseudonymiser) -> Kept:
    async with databases.connected(dsn) as connection:
        rows = await connection.fetch("SELECT * FROM searches ORDER BY id")
        return Kept(
            [
                Search(names.reveal(row["username"]), row["ticket"], row["query"], row["source"], row["flags"])
                for row in rows
            ],
            [row["timestamp"].timestamp() for row in rows],
            [dict(row) for row in await connection.fetch("SELECT * FROM coverage ORDER BY started_at")],
            [dict(row) for row in await connection.fetch("SELECT * FROM gaps ORDER BY started_at")],
            [dict(row) for row in await connection.fetch("SELECT * FROM spool_segments ORDER BY opened_at")],
            await connection.fetchval("SELECT coalesce(sum(kept), 0) FROM minutes"),
        )


def files_naming(folder: Path, *names: str) -> list[str]:
    """The places below a folder that hold one of the names, plainly or in a usual encoding."""
    wanted = b"\n".join({form for name in names for form in _forms(name)})
    found = subprocess.run(
        ["grep", "-raoF", "-f", "-", "."], cwd=folder, input=wanted, capture_output=True, check=False
    )
    assert found.returncode in (0, 1), found.stderr
    return found.stdout.decode(errors="replace").splitlines()


def _forms(name: str) -> list[bytes]:
    raw = name.encode()
    # Whatever stands before it, the middle of its Base64 is one of three.
    base64s = [base64.b64encode(b"x" * shift + raw)[4 if shift else 0 : -4] for shift in range(3)]
    return [raw, raw.hex().encode(), ascii(name)[1:-1].encode(), *base64s]
