"""A real aioslsk client on the simulated network: what it hears is what the manifest says, faults and all."""

import asyncio
import json
import math
import socket
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from aioslsk.exceptions import AuthenticationError
from aioslsk.network.connection import ConnectionState
from aioslsk.protocol import messages

from soulseek_research.simulation import control, faults, hostile, searchers
from soulseek_research.simulation.network import SimulatedNetwork
from soulseek_research.simulation.searchers import Search
from tests.plain_client import connected, logged_in, until


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


async def test_a_client_hears_what_the_manifest_says() -> None:
    async with SimulatedNetwork(rate=400, people=2000, speed=130) as network:
        async with logged_in(network.server_address) as client:
            await until(lambda: len(client.heard) > 300)
            await network.fault("silence")
            expected = [sent.identity for sent in network.sent.to("collector")]
            await until(lambda: len(client.heard) >= len(expected))
        assert client.identities == expected
        assert network.sent.searches >= len(expected)


@pytest.mark.parametrize("level", [0, 1, 6])
async def test_a_parent_stands_at_its_level(level: int) -> None:
    async with (
        SimulatedNetwork(rate=0, branches=1, parent_levels=[level]) as network,
        logged_in(network.server_address) as client,
    ):
        await network.until_heard("collector")
        assert client.parent.branch_level == level
        assert client.parent.branch_root == network.branches[0].root
        account = network.accounts("collector")[0]
        assert (account.branch_level, account.branch_root) == (level + 1, network.branches[0].root)


async def test_of_several_parents_one_is_kept() -> None:
    async with (
        SimulatedNetwork(rate=0, branches=1, parent_levels=range(7)) as network,
        logged_in(network.server_address) as client,
    ):
        await network.until_heard("collector")
        await until(lambda: len(network.branches[0].children()) == 1)
        sent = await network.send(("ada", 1, "one search"))
        await until(lambda: client.heard)
        assert client.identities == [sent.identity]
        assert sum(parent.arrivals for parent in network.branches[0].parents) > 1


@pytest.mark.parametrize(
    ("via", "message"),
    [
        ("parent", "DistributedSearchRequest"),
        ("embedded", "DistributedServerSearchRequest"),
        ("addressed", "FileSearch"),
    ],
)
async def test_a_search_comes_by_the_way_it_was_sent(via: str, message: str) -> None:
    async with SimulatedNetwork(rate=0, branches=1) as network, logged_in(network.server_address) as client:
        await network.until_heard("collector")
        sent = await network.send(Search(0, "ada", 17, "a query", "person"), via=via)
        await until(lambda: client.heard)
        assert client.heard == [(message, "ada", 17, "a query")]
        assert [delivery.heard_by for delivery in sent.deliveries] == [("collector",)]


async def test_without_parents_a_client_is_branch_root_and_the_server_sends() -> None:
    async with (
        SimulatedNetwork(rate=400, people=2000, speed=130) as network,
        logged_in(network.server_address) as client,
    ):
        await network.until_heard("collector")
        await network.fault("no-parents")
        await network.until_heard("collector")
        client.heard.clear()
        await until(lambda: len(client.heard) > 50)
        assert {search[0] for search in client.heard} == {"ServerSearchRequest"}
        await network.fault("no-parents", on=False)
        await network.until_heard("collector")
        client.heard.clear()
        await until(lambda: len(client.heard) > 50)
        assert {search[0] for search in client.heard} == {"DistributedSearchRequest"}


async def test_any_bytes_arrive() -> None:
    async with SimulatedNetwork(rate=0, branches=1) as network, logged_in(network.server_address) as client:
        await network.until_heard("collector")
        readable = {what: raw for what, raw in hostile.QUERIES.items() if what != "undecodable"}
        for ticket, raw in enumerate(readable.values()):
            await network.send((f"user{ticket}".encode(), ticket, raw))
        await until(lambda: len(client.heard) == len(readable))
        assert client.identities == [sent.identity for sent in network.sent]
        # A username of any bytes too.
        sent = await network.send((b"caf\xe9\x00", 1, b""))
        await until(lambda: len(client.heard) == len(readable) + 1)
        assert client.identities[-1] == sent.identity == ("café\x00", 1, "")


async def test_two_regions_share_the_overlap() -> None:
    network = SimulatedNetwork(
        rate=600, people=2000, speed=195, overlap=0.7, delay_seconds=0.05, regions={"eu": 0, "us": 1}
    )
    async with network, logged_in(network.server_address, "eu"), logged_in(network.server_address, "us"):
        await network.until_heard("eu", "us")
        first = network.sent.searches
        await until(lambda: network.sent.searches >= first + 800)
        await asyncio.sleep(0.1)
        common = [sent for sent in network.sent if sent.ticket and len(sent.branches) == 2]
        alone = [sent for sent in network.sent if len(sent.branches) == 1]
        assert 0.6 < len(common) / (len(common) + len(alone)) < 0.8
        assert all(sent.branches[1] - sent.branches[0] > 0.04 for sent in common)
        both = {sent.identity for sent in network.sent.to("eu")} & {sent.identity for sent in network.sent.to("us")}
        assert len(both) > 300


async def test_accounts_take_the_branches_in_turn_and_keep_theirs() -> None:
    async with SimulatedNetwork(rate=0, branches=2) as network:
        for _ in range(2):
            for number, name in enumerate(["one", "two"]):
                async with logged_in(network.server_address, name):
                    await network.until_heard(name)
                    assert network.branch_of(name).number == number


async def test_the_same_seed_sends_the_same_searches_over_the_same_branches() -> None:
    async def first_searches(seed: int) -> list[tuple[object, ...]]:
        async with SimulatedNetwork(seed=seed, rate=3000, people=500, speed=4000, overlap=0.5) as network:
            await until(lambda: len(network.sent) >= 500)
            return [(*sent.identity, sent.kind, *sent.branches) for sent in list(network.sent)[:400]]

    assert await first_searches(3) == await first_searches(3) != await first_searches(4)


async def test_the_rate_is_kept() -> None:
    async with SimulatedNetwork(rate=500, speed=60, keep_manifest=10) as network:
        await asyncio.sleep(0.5)
        before, began = network.sent.searches, time.monotonic()
        await asyncio.sleep(2)
        rate = (network.sent.searches - before) / (time.monotonic() - began)
        assert 350 < rate < 650
        assert len(network.sent) == 10


async def test_as_fast_as_the_socket_takes() -> None:
    async with SimulatedNetwork(rate=math.inf, branches=1, people=1000) as network:
        await asyncio.sleep(0.05)
        assert network.sent.searches == 0
        async with logged_in(network.server_address) as client:
            await until(lambda: len(client.heard) > 5000)
            await network.fault("silence")
            expected = network.sent.to("collector")
            await until(lambda: len(client.heard) >= len(expected))
        assert client.identities == [sent.identity for sent in expected]


async def test_a_rate_that_cannot_be_kept_leaves_the_network_alive() -> None:
    async with (
        SimulatedNetwork(people=1000, speed=1e6, branches=1, keep_manifest=0) as network,
        logged_in(network.server_address) as client,
    ):
        await network.until_heard("collector")
        await until(lambda: client.heard)


async def test_as_fast_as_the_socket_takes_from_the_server() -> None:
    async with SimulatedNetwork(rate=math.inf, branches=1, people=1000, keep_manifest=0) as network:
        await network.fault("no-parents")
        async with logged_in(network.server_address) as client:
            await until(lambda: len(client.heard) > 1000)
            assert {search[0] for search in client.heard} == {"ServerSearchRequest"}


# Faults


@pytest.mark.parametrize("name", ["fin", "rst", "kick"])
async def test_the_server_ends_the_connection(name: str) -> None:
    async with (
        SimulatedNetwork(rate=0) as network,
        logged_in(network.server_address) as client,
        logged_in(network.server_address, "other") as other,
    ):
        await network.fault(name, username="collector")
        await until(lambda: client.client.session is None)
        await until(lambda: not network.accounts("collector"))
        assert client.kicked == (name == "kick")
        assert other.client.session is not None


async def test_a_second_login_kicks_the_first() -> None:
    async with (
        SimulatedNetwork(rate=0) as network,
        logged_in(network.server_address) as first,
        logged_in(network.server_address) as second,
    ):
        await until(lambda: first.kicked)
        await until(lambda: first.client.session is None)
        assert second.client.session is not None
        assert len(network.accounts("collector")) == 1


@pytest.mark.parametrize("reset", [False, True])
async def test_the_server_restarts_on_its_port(reset: bool) -> None:
    async with SimulatedNetwork(rate=0) as network:
        address = network.server_address
        async with logged_in(address) as client:
            down = asyncio.create_task(network.fault("restart", seconds=0.3, reset=reset))
            await until(lambda: client.client.session is None)
            with pytest.raises(OSError, match=r"refused|failed"):
                await asyncio.open_connection(*address)
            await down
        assert network.server_address == address
        async with logged_in(address):
            await network.until_heard("collector")


async def test_logins_are_refused_and_let_in_again() -> None:
    async with SimulatedNetwork(rate=0) as network:
        network.set_password("collector", "right")
        async with connected(network.server_address, password="wrong") as client:
            with pytest.raises(AuthenticationError):
                await client.client.login()
        await network.fault("refuse-login", reason="SVRFULL")
        async with connected(network.server_address, password="right") as client:
            with pytest.raises(AuthenticationError) as refusal:
                await client.client.login()
            assert "SVRFULL" in str(refusal.value.args)
        await network.fault("restore")
        async with logged_in(network.server_address, password="right"):
            assert network.server.logins["collector"] == 3


async def test_a_login_is_never_answered() -> None:
    async with SimulatedNetwork(rate=0) as network:
        await network.fault("mute-login")
        async with connected(network.server_address) as client:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.client.login(), 0.3)
            assert client.client.network.server_connection.state == ConnectionState.CONNECTED


async def test_silence_of_all_and_of_one() -> None:
    async with (
        SimulatedNetwork(rate=0, branches=1) as network,
        logged_in(network.server_address, "one") as one,
        logged_in(network.server_address, "two") as two,
    ):
        await network.until_heard("one", "two")
        await network.fault("silence", username="one")
        await network.send(("ada", 1, "for two"))
        await network.send(("ada", 2, "for two"), via="addressed")
        await network.fault("silence")
        await network.send(("ada", 3, "for nobody"))
        await network.fault("restore")
        await network.send(("ada", 4, "for both"))
        await until(lambda: one.heard)
        await until(lambda: len(two.heard) == 3)
        assert [ticket for _, ticket, _ in one.identities] == [4]
        assert sorted(ticket for _, ticket, _ in two.identities) == [1, 2, 4]
        assert [sent.ticket for sent in network.sent.to("one")] == [4]


@pytest.mark.parametrize("reset", [False, True])
async def test_a_lost_parent_is_found_again(reset: bool) -> None:
    async with SimulatedNetwork(rate=0, branches=1) as network, logged_in(network.server_address) as client:
        await network.until_heard("collector")
        before = client.parent
        await network.fault("lose-parent", reset=reset)
        await until(lambda: client.parent not in (before, None))
        await network.until_heard("collector")
        assert network.branches[0].parents[0].arrivals == 2


async def test_a_parent_that_is_gone_comes_back_with_restore() -> None:
    async with SimulatedNetwork(rate=0, branches=1) as network, logged_in(network.server_address) as client:
        await network.until_heard("collector")
        await network.fault("lose-parent", stay=False)
        await until(lambda: client.parent is None)
        await asyncio.sleep(0.1)
        assert client.parent is None
        await network.fault("restore")
        await network.until_heard("collector")


async def test_an_account_moves_to_another_branch() -> None:
    async with SimulatedNetwork(rate=0, branches=2) as network, logged_in(network.server_address) as client:
        await network.until_heard("collector")
        await network.fault("move", username="collector", branch=1)
        await until(lambda: client.parent and client.parent.branch_root == network.branches[1].root)


async def test_a_parent_moves_within_the_tree() -> None:
    async with SimulatedNetwork(rate=0, branches=1) as network, logged_in(network.server_address) as client:
        await network.until_heard("collector")
        await network.fault("relevel", level=4, root="another")
        await until(lambda: (client.parent.branch_level, client.parent.branch_root) == (4, "another"))


async def test_the_server_resets_the_tree() -> None:
    async with SimulatedNetwork(rate=0, branches=1) as network, logged_in(network.server_address):
        await network.until_heard("collector")
        await network.fault("reset-distributed")
        await until(lambda: network.branches[0].parents[0].arrivals == 2)
        await network.until_heard("collector")


@pytest.mark.parametrize("via", ["parent", "server"])
async def test_malformed_frames_come_between_good_ones(via: str) -> None:
    async with SimulatedNetwork(rate=0, branches=1) as network, logged_in(network.server_address) as client:
        await network.until_heard("collector")
        for what in faults.malformed_frames(via):
            await network.fault("malformed", what=what, via=via)
        sent = await network.send(("ada", 1, "after"), via="addressed" if via == "server" else "parent")
        await until(lambda: sent.identity in client.identities)


async def test_noise_breaks_the_connection_in_the_end() -> None:
    async with SimulatedNetwork(rate=0, branches=1) as network, logged_in(network.server_address) as client:
        await network.until_heard("collector")
        await network.fault("malformed", what="noise")
        await network.send(("ada", 1, "lost"))
        await asyncio.sleep(0.1)
        assert client.heard == []


async def test_oversized_queries_and_frames() -> None:
    async with SimulatedNetwork(rate=0, branches=1) as network, logged_in(network.server_address) as client:
        await network.until_heard("collector")
        sent = await network.fault("oversized", what="64k")
        await until(lambda: client.heard)
        assert len(client.heard[0][3]) == len(sent.raw_query) == 65536
        assert await network.fault("oversized", what="header") is None


async def test_a_query_of_8_mb() -> None:
    # An ordinary client chews on it for seconds; here it is enough that it goes out.
    async with SimulatedNetwork(rate=0, branches=1) as network:
        sent = await network.fault("oversized", what="8m")
        assert len(sent.raw_query) == 8 << 20


async def test_a_duplicate_is_the_same_search_by_another_way() -> None:
    async with SimulatedNetwork(rate=0, branches=1) as network, logged_in(network.server_address) as client:
        await network.until_heard("collector")
        await network.send(("ada", 1, "one"))
        await network.send(("ada", 2, "two"))
        repeated = await network.fault("duplicate", count=2)
        await network.fault("duplicate", via="addressed")
        await until(lambda: len(client.heard) == 5)
        assert Counter(client.identities) == {("ada", 1, "one"): 2, ("ada", 2, "two"): 3}
        assert network.sent.searches == 2
        assert [delivery.via for delivery in repeated[1].deliveries] == ["parent", "parent", "addressed"]


@pytest.mark.parametrize("listens", [False, True])
async def test_a_stranger_injects_searches(listens: bool) -> None:
    port = free_port() if listens else 0
    async with (
        SimulatedNetwork(rate=0, branches=1, upload_speed=1 << 20) as network,
        logged_in(network.server_address, port=port) as client,
    ):
        await network.until_heard("collector")
        await network.fault("inject", count=5)
        await until(lambda: len(client.heard) == 5)
        assert client.identities == [sent.identity for sent in network.injected.to("collector")]
        assert network.sent.to("collector") == []


async def test_a_usurper_becomes_the_parent_of_a_careless_client() -> None:
    async with SimulatedNetwork(rate=0, branches=1, upload_speed=1 << 20) as network:
        await network.fault("no-parents")
        async with logged_in(network.server_address) as client:
            await network.until_heard("collector")
            await until(lambda: network.accounts()[0].accepts_children)
            await network.fault("usurp", level=3, count=2)
            await until(lambda: client.parent)
            assert (client.parent.username, client.parent.branch_root) == ("usurper", "usurper-root")
            await until(lambda: len(client.heard) == 2)


@pytest.mark.parametrize("listens", [False, True])
async def test_children_hear_what_their_parent_passes_on(listens: bool) -> None:
    port = free_port() if listens else 0
    async with SimulatedNetwork(rate=0, branches=1) as network, logged_in(network.server_address, port=port):
        await network.until_heard("collector")
        children = await network.fault("child", count=2)
        for child in children:
            await child.until(lambda child=child: child.level == 1)
        sent = await network.send(("ada", 1, "passed on"))
        for child in children:
            await child.until(lambda child=child: child.heard)
            assert child.heard == [sent.identity]
            assert child.root == network.branches[0].root
        await network.fault("leave")
        assert network.strangers == []


async def test_children_that_only_count() -> None:
    async with SimulatedNetwork(rate=0, branches=1) as network, logged_in(network.server_address):
        await network.until_heard("collector")
        (child,) = await network.fault("child", records=False)
        for ticket in range(50):
            await network.send(("ada", ticket, "counted"))
        await child.until(lambda: child.frames == 50)


async def test_a_slow_child_reads_nothing() -> None:
    async with SimulatedNetwork(rate=0, branches=1) as network, logged_in(network.server_address) as client:
        await network.until_heard("collector")
        (child,) = await network.fault("slow-child")
        await network.send(("ada", 1, "x" * 100_000))
        await until(lambda: client.heard)
        await asyncio.sleep(0.1)
        assert (child.level, child.heard) == (None, [])


async def test_the_server_counts_what_it_is_asked() -> None:
    async with SimulatedNetwork(rate=0) as network, logged_in(network.server_address):
        await network.until_heard("collector")
        assert network.server.received["Login"] == 1
        assert network.server.received["SetListenPort"] == 1
        assert network.server.received["GetPeerAddress"] == 0


async def test_an_unknown_fault_is_refused() -> None:
    with pytest.raises(ValueError, match="no fault 'flood', only child, duplicate"):
        await SimulatedNetwork().fault("flood")


# Manifest, control, feeder


async def test_the_manifest_can_be_written_to_a_file(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    async with SimulatedNetwork(rate=0, branches=2, keep_manifest=0, manifest_path=path) as network:
        await network.send(("ada", 1, "müsik"))
        assert list(network.sent) == []
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["username"], row["ticket"], row["query"], row["branch"]) for row in rows] == [
        ("ada", 1, "müsik", 0),
        ("ada", 1, "müsik", 1),
    ]


async def test_a_network_obeys_a_socket(tmp_path: Path) -> None:
    path = tmp_path / "control"
    said: list[str] = []
    running = asyncio.create_task(control.run(control_path=path, report=said.append, report_seconds=0.02, rate=0))
    await until(lambda: said)
    address = said[0].removesuffix(".").split()[-1].split(":")
    assert path.stat().st_mode & 0o077 == 0
    reader, writer = await asyncio.open_unix_connection(path)

    async def tell(line: str) -> dict[str, object]:
        writer.write(line.encode() + b"\n")
        answer: dict[str, object] = json.loads(await reader.readline())
        return answer

    async with logged_in((address[0], int(address[1]))) as client:
        await until(lambda: client.parent)
        assert set((await tell("status"))["accounts"]) == {"collector"}
        assert await tell("send ada 7 'two words' branch=0") == {"heard_by": ["collector"]}
        assert set(await tell("faults")) == set(faults.FAULTS)
        assert "no fault" in str((await tell("fault flood"))["error"])
        assert "error" in await tell("fault kick volume=11")
        assert "error" in await tell("send ada seven query")
        assert "error" in await tell("send 'ada")
        assert "quit" in await tell("")
        await until(lambda: client.heard)
        assert await tell("fault kick") == {"done": True}
        await until(lambda: client.kicked)
    await until(lambda: any("searches so far" in line for line in said))
    assert await tell("quit") == {"done": True}
    await asyncio.wait_for(running, 5)
    writer.close()
    await writer.wait_closed()
    assert not path.exists()


async def test_a_network_runs_for_a_while() -> None:
    said: list[str] = []
    await asyncio.wait_for(control.run(seconds=0.1, report=said.append, rate=0), 5)
    assert len(said) == 1


async def test_a_feeder_in_its_own_process_feeds_a_client() -> None:
    count = 2000
    feeder = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "soulseek_research.simulation.feeder", "--block", "3000", "--people", "500"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert feeder.stdin is not None
    assert feeder.stdout is not None

    async def tell(line: str) -> dict[str, object]:
        assert feeder.stdin is not None
        assert feeder.stdout is not None
        feeder.stdin.write(line.encode() + b"\n")
        answer: dict[str, object] = json.loads(await feeder.stdout.readline())
        return answer

    host, port = json.loads(await feeder.stdout.readline())["server"]
    async with logged_in((host, port)) as client:
        await until(lambda: client.parent)
        assert len((await tell("children 2"))["children"]) == 2
        assert (await tell("feed 100 2000"))["fed"] == 100
        assert (await tell(f"feed {count - 100}"))["fed"] == count
        await until(lambda: len(client.heard) == count, seconds=60)
        assert [ticket for _, ticket, _ in client.identities] == list(range(count))
        block = [search for search, _ in zip(searchers.stream(1, 500), range(3000), strict=False)]
        for username, ticket, query in client.identities[::997]:
            assert (username, query) == (block[ticket % 3000].username, block[ticket % 3000].query)
        assert "error" in await tell("nonsense")
        async with asyncio.timeout(10):
            while set((await tell("status"))["children"].values()) != {count}:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
    feeder.stdin.write(b"quit\n")
    assert await asyncio.wait_for(feeder.wait(), 10) == 0


async def test_a_client_that_reads_nothing_does_not_hold_up_the_end() -> None:
    async with SimulatedNetwork(rate=0, branches=1) as network:
        init = messages.PeerInit.Request("deaf", "D", 0).serialize()
        _, writer = await asyncio.open_connection("127.0.0.1", network.branches[0].parents[0].port)
        writer.transport.pause_reading()
        writer.write(init)
        await until(network.branches[0].children)
        await network.fault("oversized", what="8m")
        began = time.monotonic()
    assert time.monotonic() - began < 5
    writer.transport.abort()


async def test_nothing_is_left_behind() -> None:
    before = asyncio.all_tasks()
    async with SimulatedNetwork(rate=100, speed=60, parent_levels=[0, 3]) as network:
        ports = [network.server_address[1], *(parent.port for one in network.branches for parent in one.parents)]
        async with logged_in(network.server_address):
            await network.until_heard("collector")
    await until(lambda: asyncio.all_tasks() == before)
    for port in ports:
        with pytest.raises(OSError, match="failed"):
            await asyncio.open_connection("127.0.0.1", port)
