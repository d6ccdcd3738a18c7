"""Feeding a client as fast as its socket takes it, from a process of its own: for the benchmark.

    python -m soulseek_research.simulation.feeder [--block 50000] [--seed 1] [--hostile-share 0]

It prints a line of JSON, `{"server": ["127.0.0.1", PORT]}`, and then does what each line on its standard input says,
answering with a line of JSON: `feed COUNT [RATE]` sends so many searches to the clients that are connected, `children
N` connects children to them, `status` tells, `quit` ends it, and so does the end of the input.

The searches are prepared once and sent again and again with new tickets: search number i of a process is query
i % block with ticket i, so each is another search, and what arrived can be checked by its tickets alone.
"""

from __future__ import annotations

import argparse
import asyncio
import struct
import time
from collections.abc import Iterator
from itertools import islice

from . import frames, lines, searchers
from .branch import Branch
from .network import SimulatedNetwork
from .searchers import Search

BLOCK_SEARCHES = 50_000
# One write to a socket; small enough that a feeder with a rate stays even.
PIECE_SEARCHES = 1024
TICK_SECONDS = 0.002

_TICKET = struct.Struct("<I")


class Block:
    """So many different searches as ready frames.

    Args:
        searches: at least `size` searches; hostile ones are fine.
        size: how many.
    """

    def __init__(self, searches: Iterator[Search], size: int = BLOCK_SEARCHES) -> None:
        self.searches = list(islice(searches, size))
        self._frames = bytearray()
        self._starts: list[int] = []
        self._tickets: list[int] = []
        for search in self.searches:
            username = search.username.encode()
            query = search.query.encode() if search.raw is None else search.raw
            self._starts.append(len(self._frames))
            self._tickets.append(len(self._frames) + frames.ticket_offset("parent", username))
            self._frames += frames.distributed(username, 0, query)
        self._starts.append(len(self._frames))

    def __len__(self) -> int:
        return len(self.searches)

    def piece(self, first: int, count: int) -> bytes:
        """The frames of search number `first` and up to `count` - 1 more, as far as the block goes."""
        begin = first % len(self)
        end = min(begin + count, len(self))
        pack, data = _TICKET.pack_into, self._frames
        for ticket, offset in enumerate(self._tickets[begin:end], first):
            pack(data, offset, ticket & 0xFFFFFFFF)
        return bytes(memoryview(data)[self._starts[begin] : self._starts[end]])

    def pieces(self, first: int, count: int, size: int = PIECE_SEARCHES) -> Iterator[tuple[int, bytes]]:
        """`count` searches from number `first` on, in pieces: how many and their frames."""
        end = first + count
        while first < end:
            number = min(size, end - first, len(self) - first % len(self))
            yield number, self.piece(first, number)
            first += number


class Feeder:
    """Feeds the children of one branch.

    Args:
        branch: whose children hear.
        block: what they hear.
    """

    def __init__(self, branch: Branch, block: Block) -> None:
        self._branch = branch
        self._block = block
        self.fed = 0
        """How many searches went out, so the next one's number."""

    async def feed(self, count: int, rate: float = 0.0) -> float:
        """Send so many searches, at so many a second or as fast as the sockets take them.

        Returns:
            How many seconds it took until all were handed to the sockets.
        """
        began = time.perf_counter()
        done = 0
        size = PIECE_SEARCHES if not rate else max(1, min(PIECE_SEARCHES, int(rate * TICK_SECONDS)))
        for number, piece in self._block.pieces(self.fed, count, size):
            if rate and (early := began + done / rate - time.perf_counter()) > 0:
                await asyncio.sleep(early)
            self._branch.write(piece)
            await self._branch.drain()
            done += number
            self.fed += number
        return time.perf_counter() - began


async def _run(arguments: argparse.Namespace) -> None:
    crowd = searchers.stream(arguments.seed, arguments.people, hostile_share=arguments.hostile_share)
    block = Block(crowd, arguments.block)
    async with SimulatedNetwork(rate=0, branches=1) as network:
        feeder = Feeder(network.branches[0], block)
        lines.say({"server": network.server_address})
        async for line in lines.read():
            match line.split():
                case ["feed", count, *rate]:
                    seconds = await feeder.feed(int(count), float(rate[0]) if rate else 0.0)
                    lines.say({"fed": feeder.fed, "seconds": seconds})
                case ["children", count]:
                    await network.fault("child", count=int(count), records=False)
                    lines.say({"children": [child.username for child in network.strangers]})
                case ["status"]:
                    heard = {child.username: child.frames for child in network.strangers}
                    lines.say(network.status() | {"fed": feeder.fed, "children": heard})
                case ["quit"]:
                    return
                case _:
                    lines.say({"error": "feed COUNT [RATE], children N, status or quit"})


def main() -> None:
    """Run the feeder."""
    parser = argparse.ArgumentParser(prog="python -m soulseek_research.simulation.feeder", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--people", type=int, default=30_000)
    parser.add_argument(
        "--hostile-share", type=float, default=searchers.HOSTILE, help="the share of what people ask that is hostile"
    )
    parser.add_argument("--block", type=int, default=BLOCK_SEARCHES, help="how many different searches")
    asyncio.run(_run(parser.parse_args()))


if __name__ == "__main__":
    main()
