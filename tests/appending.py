"""A process that appends to a spool as fast as it can and says what it was told is safe: `-m tests.appending PATH`."""

import os
import sys
from pathlib import Path

from collectors.search import Row
from collectors.spool import Spool


def searches_at(position: int) -> list[Row]:
    """What stands at a position, so that whoever reads it can tell."""
    return [
        (position, number, 1, 0, f"pseudonym {number}", f"{position}.{number} кино") for number in range(position % 7)
    ]


def main() -> None:
    """Append until killed; each line on stdout is a segment and a position that is on the disk."""
    with Spool(Path(sys.argv[1])) as spool:
        segment = spool.open_segment()
        while True:
            position = spool.segments()[-1].last_position + 1
            assert spool.append(searches_at(position), {"position": position}, position) == position
            os.write(1, f"{segment.segment_id} {position}\n".encode())


if __name__ == "__main__":
    main()
