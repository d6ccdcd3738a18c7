"""The words by which an archive explains itself to somebody who has nothing but the file and its manifest."""

from dataclasses import dataclass

from soulseek_research.storage.archive import checksum
from soulseek_research.storage.archive.rows import COLUMNS
from soulseek_research.storage.archive.settings import Format


@dataclass(frozen=True)
class Column:
    """A column of an archive, in words."""

    name: str
    type: str
    meaning: str


_MEANINGS = {
    "id": ("64-bit integer", "numbers the searches of one database in about the order of their coming"),
    "timestamp": ("time in UTC, to the millisecond", "when the search arrived at the collector"),
    "ticket": (
        "integer from 0 to 4294967295, or null",
        "the searcher's own number for the search; null where it is not known",
    ),
    "source": (
        "16-bit integer",
        (
            "by which way it came: 1 from the parent in the tree of peers, 2 from the parent as the server's message, "
            "3 from the server to a branch root, 4 addressed to the collector, 0 not known (imported)"
        ),
    ),
    "flags": (
        "16-bit integer",
        (
            "a sum of 1 (control characters replaced by U+FFFD), 2 (query cut to 4096 characters), 4 (was not UTF-8), "
            "8 (the query contains somebody's username: not to be published)"
        ),
    ),
    "client_id": ("text", "the collector that heard it"),
    "username": (
        "text",
        "a pseudonym of who searched, <key id>.<base64url>, never a name; empty where retention has removed it",
    ),
    "query": ("text", "what was searched for"),
}
COLUMNS_DESCRIBED = tuple(Column(name, *_MEANINGS[name]) for name in COLUMNS)

FORMATS = {
    Format.PARQUET: "Apache Parquet, compressed with zstd; rows in groups by time, sorted within each",
    Format.CSV_ZST: "CSV with a header as PostgreSQL's COPY writes it (an empty ticket is null), compressed with zstd",
    Format.CSV_GZ: "CSV with a header as PostgreSQL's COPY writes it (an empty ticket is null), compressed with gzip",
}

ABOUT = (
    "This explains the archive {file}: searches heard on the Soulseek network in {month} (UTC), one a row. It is whole "
    "when its SHA-256 is the one given here. Times are UTC, sizes bytes; `schema` says what the columns mean, "
    "`coverage` when each collector listened (at any other time nobody did; of imported searches, source 0, it is not "
    "known), `gaps` what is known to be missing."
)
TALLY = (
    "count, extremes and sums over the rows: timestamps in milliseconds since 1970, texts in bytes of UTF-8; "
    "PostgreSQL counted the same of the table before it was dropped"
)
CHECKSUM = " ".join(
    (checksum.__doc__ or f"{checksum.CHECKSUM_VERSION}: see archive/checksum.py of the software").split()
)
COVERAGE = "stretches in which a collector truly heard the network; those across the month's borders stand here whole"
GAPS = "what was heard, or should have been, and is not there; searches is null where nobody can know how many"
