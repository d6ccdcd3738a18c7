"""`make bench`: what collector and archive are capable of, against what is required of them, all from one run.

Everything is real: a feeder in a process of its own, a loopback socket, our commands as processes, an embedded
PostgreSQL. Ratios are between runs that took turns; they are what counts, because the machine is shared.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks import archive, drain, everyday, measure, report, store, sustained, wire_to_row
from tests.benchmarks.measure import Figure
from tests.benchmarks.store import Store

QUESTIONS = {
    question.__name__.rpartition(".")[2]: question for question in (wire_to_row, sustained, everyday, drain, archive)
}
QUICK = {
    "wire_to_row": wire_to_row.Scale(runs=1, warm_up=5_000, searches=20_000, predecessor_searches=10_000),
    "sustained": sustained.Scale(seconds=1.0, doublings=1, bisections=0),
    "everyday": everyday.Scale(warm_up=3_000, seconds=3.0),
    "drain": drain.Scale(runs=1, searches=50_000),
    "archive": archive.Scale(runs=1, searches=50_000, block=20_000, times=1),
}


async def figures(kept: Store, names: Sequence[str], *, quick: bool) -> list[Figure]:
    found: list[Figure] = []
    for name in names:
        sys.stderr.write(f"{name} ...\n")
        question = QUESTIONS[name]
        found += await question.figures(kept, QUICK[name] if quick else question.Scale())
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="a minute instead of a quarter of an hour: whether it runs, not how fast"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument("--only", action="append", choices=QUESTIONS, help="one question of them; may be given again")
    options = parser.parse_args(arguments)
    machine = measure.machine()
    with store.running() as kept:
        found = asyncio.run(figures(kept, options.only or list(QUESTIONS), quick=options.quick))
    report.show(found, machine)
    if options.json:
        report.save(found, machine, options.json)


if __name__ == "__main__":
    main()
