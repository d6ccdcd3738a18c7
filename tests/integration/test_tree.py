import asyncio
import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator, Callable

import pytest
from aioslsk.protocol import messages

from collectors import children, connections, counts, network
from collectors.session import State
from soulseek_research.simulation import frames
from soulseek_research.simulation.network import SimulatedNetwork
from soulseek_research.simulation.strangers import Stranger
from tests.listening import ACCOUNT, Listener, listening
from tests.ports import free_port


@pytest.fixture
async def quiet() -> AsyncIterator[SimulatedNetwork]:
    """A network in which only what a test sends is heard; its parent stands at level 3."""
    async with SimulatedNetwork(rate=0, branches=1, parent_levels=(3,)) as net:
        yield net


async def placed(net: SimulatedNetwork, listener: Listener) -> None:
    """Waits until searches arrive."""
    await net.until_heard(ACCOUNT)
    await net.send(("first", 0, "is anybody there"), via="parent" if net.offers_parents else "server")
    await listener.until(lambda: listener.is_listening)


async def test_our_place_is_told_to_server_and_ledger(quiet: SimulatedNetwork) -> None:
    async with listening(quiet) as listener:
        await placed(quiet, listener)
        (account,) = quiet.accounts()
        await quiet.server.until(lambda: account.branch_root == "root0")
        assert account.branch_level == 4
        assert not account.seeks_parent
        assert listener.states[-1] == (State.LISTENING, "child at level 4")
        (stretch,) = listener.stretches()
        assert (stretch["role"], stretch["branch_level"], stretch["branch_root"]) == ("child", 4, "root0")


async def test_a_lost_parent_ends_the_stretch_and_another_is_found(quiet: SimulatedNetwork) -> None:
    async with listening(quiet) as listener:
        await placed(quiet, listener)
        for arrivals, reset in ((2, False), (3, True)):
            await quiet.fault("lose-parent", reset=reset)
            await listener.until(lambda arrivals=arrivals: quiet.branches[0].parents[0].arrivals == arrivals)
            await placed(quiet, listener)
        assert [stretch["end_reason"] for stretch in listener.stretches()] == ["parent lost", "parent lost", None]
        assert quiet.server.logins[ACCOUNT] == 1
        assert listener.counts.kept == 1
        assert listener.counts.duplicates == 2


async def test_a_parent_that_falls_silent_is_given_up(quiet: SimulatedNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "PARENT_SILENCE_SECONDS", 0.3)
    async with listening(quiet) as listener:
        await placed(quiet, listener)
        await listener.until(lambda: quiet.branches[0].parents[0].arrivals > 1)
        assert quiet.server.logins[ACCOUNT] == 1


async def test_a_parent_may_move(quiet: SimulatedNetwork) -> None:
    async with listening(quiet) as listener:
        await placed(quiet, listener)
        quiet.write(messages.DistributedBranchLevel.Request(6).serialize(), "parent")
        quiet.write(messages.DistributedBranchRoot.Request("another").serialize(), "parent")
        await quiet.send(("anna", 7, "after"))
        await listener.until(lambda: listener.states[-1] == (State.LISTENING, "child at level 7"))
        assert quiet.accounts()[0].branch_level == 4  # aioslsk tells its children, and not the server
        places = [(one["branch_level"], one["branch_root"], one["end_reason"]) for one in listener.stretches()]
        assert places == [(4, "root0", "place changed"), (7, "another", None)]


async def test_without_parents_we_are_a_branch_root(quiet: SimulatedNetwork) -> None:
    async with listening(quiet) as listener:
        await placed(quiet, listener)
        await quiet.fault("no-parents")
        await listener.until(lambda: listener.states[-1][0] is State.LOGGED_IN)
        await quiet.server.until(lambda: quiet.accounts()[0].is_branch_root)
        await quiet.send(("anna", 7, "from the server"), via="server")
        await listener.until(lambda: listener.is_listening)
        root = listener.stretches()[-1]
        assert (root["role"], root["branch_level"], root["branch_root"]) == ("branch root", 0, ACCOUNT)
        await quiet.fault("no-parents", on=False)
        await listener.until(lambda: quiet.branches[0].parents[0].arrivals == 2)
        await quiet.send(("anna", 8, "from the parent"))
        await listener.until(lambda: listener.states[-1] == (State.LISTENING, "child at level 4"))
        assert listener.stretches()[-1]["role"] == "child"


async def test_a_search_aimed_at_us_proves_no_place(quiet: SimulatedNetwork) -> None:
    await quiet.fault("no-parents")
    async with listening(quiet) as listener:
        await quiet.until_heard(ACCOUNT)
        await quiet.send(("anna", 7, "to you"), via="addressed")
        await listener.until(lambda: listener.is_listening)
        assert listener.states[-1] == (State.LISTENING, "addressed")
        await quiet.send(("anna", 8, "to all"), via="server")
        await listener.until(lambda: listener.states[-1] == (State.LISTENING, "branch root at level 0"))
        assert [one["role"] for one in listener.stretches()] == ["addressed", "branch root"]


async def test_nor_does_it_prove_that_the_parent_speaks(quiet: SimulatedNetwork) -> None:
    async with listening(quiet) as listener:
        await quiet.until_heard(ACCOUNT)
        await quiet.send(("anna", 7, "to you"), via="addressed")
        await listener.until(lambda: listener.counts.kept == 1)
        assert listener.states[-1][0] is State.LOGGED_IN
        await quiet.send(("anna", 8, "to all"))
        await listener.until(lambda: listener.states[-1] == (State.LISTENING, "child at level 4"))


@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize("port", ["open", "none"])
async def test_nobody_becomes_our_parent_whom_the_server_did_not_offer(
    quiet: SimulatedNetwork, port: str, level: int
) -> None:
    await quiet.fault("no-parents")
    async with listening(quiet, listen_port=free_port() if port == "open" else 0) as listener:
        await placed(quiet, listener)
        await quiet.fault("child")
        await quiet.fault("usurp", level=level, count=10)
        await listener.until(lambda: listener.counts.refused == {counts.NOT_FROM_PARENT: 10})
        await quiet.send(("anna", 7, "from the server"), via="server")
        await listener.until(lambda: ("anna", 7, "from the server") in listener.heard)
        assert listener.states[-1] == (State.LISTENING, "branch root at level 0")
        assert quiet.accounts()[0].is_branch_root


@pytest.mark.parametrize(("level", "root"), [(2**32 - 1, "root0"), (5, "r" * 1000), (5, "")])
async def test_a_parent_at_an_absurd_place_is_not_taken(quiet: SimulatedNetwork, level: int, root: str) -> None:
    parent = quiet.branches[0].parents[0]
    parent.level, parent.root = level, root
    async with listening(quiet) as listener:
        await listener.until(lambda: parent.arrivals == 2)  # it was left, and offered again
        parent.level, parent.root = 5, "root0"
        await placed(quiet, listener)
        assert listener.states[-1] == (State.LISTENING, "child at level 6")


def noting(broods: list[children.Brood], cut_off: Callable[..., None]) -> Callable[..., None]:
    """Notes each brood that lets a child go."""

    def note(brood: children.Brood, connection: object) -> None:
        broods.append(brood)
        cut_off(brood, connection)

    return note


async def with_children(net: SimulatedNetwork, listener: Listener, number: int) -> list[Stranger]:
    await placed(net, listener)
    found: list[Stranger] = await net.fault("child", count=number)
    for child in found:
        await child.until(lambda child=child: child.root is not None)
    return found


@pytest.mark.parametrize("port", ["open", "none"])
async def test_children_learn_our_place_and_every_believed_search(quiet: SimulatedNetwork, port: str) -> None:
    async with listening(quiet, listen_port=free_port() if port == "open" else 0) as listener:
        family = await with_children(quiet, listener, 3)
        assert {(child.level, child.root) for child in family} == {(4, "root0")}
        await quiet.fault("inject", count=5)
        await quiet.fault("malformed")
        await quiet.send(("anna", 1, "by the parent"))
        await quiet.send(("anna", 2, "embedded"), via="embedded")
        await quiet.send(("anna", 3, "embedded by an old client"), via="embedded-short")
        await quiet.send(("anna", 4, "to us alone"), via="addressed")
        await quiet.send(("anna", 5, "café".encode("cp1252")))
        await quiet.send(("anna", 1, "by the parent"))
        for child in family:
            await child.until(lambda child=child: len(child.heard) >= 6)
            assert [ticket for name, ticket, _ in child.heard if name == "anna"] == [1, 2, 3, 5, 1]
            assert child.heard[-2] == ("anna", 5, "café")
            assert child.frames == 2 + len(child.heard)  # our level and root, and nothing else
            assert not any("injected" in query for _, _, query in child.heard)


async def test_the_servers_searches_reach_the_children_of_a_branch_root(quiet: SimulatedNetwork) -> None:
    await quiet.fault("no-parents")
    async with listening(quiet, listen_port=free_port()) as listener:
        await placed(quiet, listener)
        (child,) = await quiet.fault("child")
        await child.until(lambda: child.level == 0)
        await quiet.send(("anna", 1, "by the server"), via="server")
        await child.until(lambda: child.heard == [("anna", 1, "by the server")])


async def test_children_learn_where_we_moved(quiet: SimulatedNetwork) -> None:
    async with listening(quiet) as listener:
        (child,) = await with_children(quiet, listener, 1)
        await quiet.fault("no-parents")
        await child.until(lambda: (child.level, child.root) == (0, ACCOUNT))
        await quiet.fault("no-parents", on=False)
        await child.until(lambda: (child.level, child.root) == (4, "root0"))


async def test_without_uploads_nobody_becomes_our_child(quiet: SimulatedNetwork) -> None:
    async with listening(quiet, listen_port=free_port()) as listener:
        await placed(quiet, listener)
        (account,) = quiet.accounts()
        await quiet.server.until(lambda: account.accepts_children is False)
        stranger = await quiet.introduce(Stranger("hopeful"), account)
        async with asyncio.timeout(5):
            await stranger.closed.wait()


async def test_there_are_never_more_children_than_wanted(quiet: SimulatedNetwork) -> None:
    async with listening(quiet, listen_port=free_port(), children_max=2) as listener:
        family = await with_children(quiet, listener, 2)
        (third,) = await quiet.fault("child")
        async with asyncio.timeout(5):
            await third.closed.wait()
        await family[0].close()
        await listener.until(lambda: len(quiet.accounts()) == 1)
        (fourth,) = await quiet.fault("child")
        await fourth.until(lambda: fourth.level == 4)


@pytest.mark.parametrize("name", ["root0.1", "twin"])
async def test_neither_an_offered_parent_nor_a_twin_becomes_our_child(quiet: SimulatedNetwork, name: str) -> None:
    async with listening(quiet, listen_port=free_port()) as listener:
        await with_children(quiet, listener, 1)
        (account,) = quiet.accounts()
        if name == "twin":
            first = await quiet.introduce(Stranger(name), account)
            await first.until(lambda: first.level == 4)
        second = await quiet.introduce(Stranger(name), account)
        async with asyncio.timeout(5):
            await second.closed.wait()


async def test_a_child_that_does_not_read_is_cut_off_and_holds_up_nobody(
    quiet: SimulatedNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "BACKLOG_MAX_BYTES", 1 << 16)
    monkeypatch.setattr(children, "STALL_SECONDS", 60)
    broods: list[children.Brood] = []
    monkeypatch.setattr(children.Brood, "cut_off", noting(broods, children.Brood.cut_off))
    async with listening(quiet, listen_port=free_port()) as listener:
        (good,) = await with_children(quiet, listener, 1)
        (bad,) = await quiet.fault("slow-child")
        slowest = 0.0
        # More than the sockets of both ends hold, in rounds that a healthy child takes with ease.
        for number in range(400):
            query = f"{number} ".encode() + bytes(16_000)
            frame = frames.distributed(b"anna", number, query)
            began = time.perf_counter()
            quiet.write(frame * 2, "parent")
            await listener.until(lambda number=number: listener.counts.kept >= number + 2)
            slowest = max(slowest, time.perf_counter() - began)
            await good.until(lambda number=number: len(good.heard) >= 2 * number)
            if broods:
                break
        assert [brood.too_slow for brood in broods] == [1]
        assert slowest < 2
        heard = len(good.heard)
        await quiet.send(("anna", 10_000, "and then"))
        await good.until(lambda: len(good.heard) > heard)
        await bad.close()


async def test_a_child_that_stalls_is_cut_off_with_its_socket(
    quiet: SimulatedNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "STALL_SECONDS", 0.2)
    monkeypatch.setattr(children, "BACKLOG_MAX_BYTES", 1 << 30)
    monkeypatch.setattr("aioslsk.network.connection.DISCONNECT_TIMEOUT", 0.1)
    broods: list[children.Brood] = []
    monkeypatch.setattr(children.Brood, "cut_off", noting(broods, children.Brood.cut_off))
    async with listening(quiet, listen_port=free_port()) as listener:
        await placed(quiet, listener)
        await quiet.fault("slow-child")
        descriptors = open_descriptors()
        for number in range(200):
            quiet.write(frames.distributed(b"anna", number, bytes(64_000)), "parent")
            await asyncio.sleep(0.02)
            if broods:
                break
        assert [brood.too_slow for brood in broods] == [1]
        await listener.until(lambda: open_descriptors() < descriptors)


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - counting is all


async def test_a_child_may_be_silent_and_may_go(quiet: SimulatedNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HANDSHAKE_SECONDS", 0.2)
    broods: list[children.Brood] = []
    monkeypatch.setattr(children.Brood, "add", noting(broods, children.Brood.add))
    async with listening(quiet, listen_port=free_port()) as listener:
        (child,) = await with_children(quiet, listener, 1)
        await asyncio.sleep(0.5)
        await quiet.send(("anna", 7, "still there"))
        await child.until(lambda: ("anna", 7, "still there") in child.heard)
        assert len(broods[0]) == 1
        await child.close()
        await listener.until(lambda: len(broods[0]) == 0)


async def test_a_burst_of_invitations_makes_no_crowd(quiet: SimulatedNetwork) -> None:
    arrived, adopted = 0, 0

    async def arrive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal arrived, adopted
        arrived += 1
        with contextlib.suppress(ConnectionError):
            await frames.read(reader)
            adopted += await frames.read(reader) is not None
            await reader.read()
        writer.close()

    async with listening(quiet, children_max=3) as listener:
        await with_children(quiet, listener, 1)
        elsewhere = await asyncio.start_server(arrive, "127.0.0.1", 0)
        port = elsewhere.sockets[0].getsockname()[1]
        invitations = [
            messages.ConnectToPeer.Response(f"hopeful{number}", "D", "127.0.0.1", port, number, False, 0, 0)
            for number in range(200)
        ]
        quiet.accounts()[0].send(*invitations)
        await quiet.send(("anna", 7, "and then"), via="addressed")
        await listener.until(lambda: ("anna", 7, "and then") in listener.heard)
        await listener.until(lambda: adopted == 2)
        await asyncio.sleep(0.2)
        assert adopted == 2
        assert arrived <= network.STRANGERS_MAX
    elsewhere.close()
    await elsewhere.wait_closed()


async def test_an_invitation_that_leads_nowhere_does_not_hold_up_the_end(quiet: SimulatedNetwork) -> None:
    with contextlib.ExitStack() as sockets:
        nowhere = sockets.enter_context(socket.socket())
        nowhere.bind(("127.0.0.1", 0))
        nowhere.listen(0)
        for _ in range(3):  # once its backlog is full, the kernel answers nobody
            filler = sockets.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(nowhere.getsockname())
        async with listening(quiet) as listener:
            await placed(quiet, listener)
            quiet.server.upload_speed = 1 << 20
            before = len(asyncio.all_tasks())
            quiet.accounts()[0].send(
                messages.ConnectToPeer.Response("lost", "D", *nowhere.getsockname(), 1, False, 0, 0)
            )
            await listener.until(lambda: len(asyncio.all_tasks()) > before)
            assert listener.task is not None
            listener.task.cancel()
            async with asyncio.timeout(1):
                await asyncio.gather(listener.task, return_exceptions=True)
            assert not any("_connect_to_child" in repr(task) for task in asyncio.all_tasks())
