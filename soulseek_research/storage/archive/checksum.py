"""A checksum of rows that does not depend on their order, and the figures that go with it.

Version v1, written down so that anybody can compute it again at any time. A row is nine unsigned 64-bit words:

    id, timestamp in milliseconds since 1970, ticket (or 0), 1 if there is a ticket and 0 if not, source, flags,
    XXH64 of client_id, XXH64 of username, XXH64 of query,

numbers in two's complement, XXH64 (https://xxhash.com) with seed 0 of the UTF-8. They are folded into one, beginning
with h = 0 and for each word w

    h = ((h xor w) * 0x9E3779B97F4A7C15) mod 2^64,  then  h = h xor (h >> 32),

and the checksum of some rows is the sum of theirs mod 2^64. It finds accidents, not forgery: against that there is the
SHA-256 of the file.
"""

import numpy as np
import numpy.typing as npt
import polars as pl
import polars_hash  # registers itself with polars as `nchash`
import pyarrow as pa

from soulseek_research.storage.archive.rows import TEXTS
from soulseek_research.storage.archive.tally import Tally

__all__ = ["CHECKSUM_VERSION", "Measured", "polars_hash"]

CHECKSUM_VERSION = "v1"

Words = npt.NDArray[np.uint64]

_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_HALF = np.uint64(32)
# So many rows at once keep all that is in between in the processor's cache.
_BLOCK_ROWS = 16_384

_TALLY = (
    pl.len().alias("rows"),
    pl.col("timestamp").min().to_physical().alias("first_timestamp"),
    pl.col("timestamp").max().to_physical().alias("last_timestamp"),
    # A sum of 64-bit numbers does not fit 64 bits.
    pl.col("id").cast(pl.Int128).sum().alias("ids"),
    pl.col("timestamp").to_physical().cast(pl.Int128).sum().alias("timestamps"),
    pl.col("ticket").cast(pl.Int128).sum().alias("tickets"),
    pl.col("ticket").null_count().alias("without_ticket"),
    pl.col("source").cast(pl.Int64).sum().alias("sources"),
    pl.col("flags").cast(pl.Int64).sum().alias("flags"),
    *(pl.col(name).str.len_bytes().cast(pl.Int64).sum().alias(f"{name}_bytes") for name in TEXTS),
)
_WORDS = (
    pl.col("id"),
    pl.col("timestamp").to_physical(),
    pl.col("ticket").fill_null(0),
    pl.col("ticket").is_not_null().cast(pl.Int64).alias("has_ticket"),
    pl.col("source").cast(pl.Int64),
    pl.col("flags").cast(pl.Int64),
    *(getattr(pl.col(name), "nchash").xxhash64() for name in TEXTS),  # noqa: B009 - registered when it is imported
)


class Measured:
    """The tally and the checksum of all rows that were added.

    Attributes:
        tally: Count, extremes and sums.
        checksum: As the module defines it, 0 to 2^64 - 1.
    """

    def __init__(self) -> None:
        self.tally = Tally()
        self.checksum = 0

    def add(self, rows: pa.Table | pl.DataFrame) -> None:
        """Take some rows in, with the columns of `rows.SCHEMA`."""
        frame = rows if isinstance(rows, pl.DataFrame) else pl.DataFrame(rows)
        self.tally += Tally(**frame.select(_TALLY).row(0, named=True))
        words = [column.to_numpy().view(np.uint64) for column in frame.select(_WORDS)]
        for start in range(0, frame.height, _BLOCK_ROWS):
            hashes = _fold([column[start : start + _BLOCK_ROWS] for column in words])
            self.checksum = (self.checksum + int(hashes.sum())) % 2**64

    @property
    def checksum_text(self) -> str:
        """The checksum with its version, as it is written down: `v1:0123456789abcdef`."""
        return f"{CHECKSUM_VERSION}:{self.checksum:016x}"


def _fold(columns: list[Words]) -> Words:
    hashes = np.zeros(len(columns[0]), dtype=np.uint64)
    for words in columns:
        np.bitwise_xor(hashes, words, out=hashes)
        np.multiply(hashes, _FACTOR, out=hashes)
        np.bitwise_xor(hashes, hashes >> _HALF, out=hashes)
    return hashes
