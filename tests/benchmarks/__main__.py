"""`make bench`: what the collector is capable of, against what is required of it, all from one run on this machine.

Everything is real: a feeder in a process of its own, a loopback socket, the collector as its command, an embedded
PostgreSQL. Ratios are between runs that took turns; they are what counts, because the machine is shared.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks import drain, everyday, measure, report, store, sustained, wire_to_row
from tests.benchmarks.measure import Figure
from tests.benchmarks.store import Store

QUICK = (
    wire_to_row.Scale(runs=1, warm_up=5_000, searches=20_000, predecessor_searches=10_000),
    sustained.Scale(seconds=1.0, doublings=1, bisections=0),
    everyday.Scale(warm_up=3_000, seconds=3.0),
    drain.Scale(runs=1, searches=50_000),
)
WHOLE = (wire_to_row.Scale(), sustained.Scale(), everyday.Scale(), drain.Scale())


async def figures(kept: Store, *, quick: bool) -> list[Figure]:
    scales = QUICK if quick else WHOLE
    found: list[Figure] = []
    for question, scale in zip((wire_to_row, sustained, everyday, drain), scales, strict=True):
        sys.stderr.write(f"{question.__name__.rpartition('.')[2]} ...\n")
        found += await question.figures(kept, scale)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a minute instead of four: whether it runs, not how fast")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    options = parser.parse_args(arguments)
    machine = measure.machine()
    with store.running() as kept:
        found = asyncio.run(figures(kept, quick=options.quick))
    report.show(found, machine)
    if options.json:
        report.save(found, machine, options.json)


if __name__ == "__main__":
    main()
