import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest
from aioslsk.exceptions import PeerConnectionError
from aioslsk.protocol import messages

from collectors import connections, counts, network
from collectors.client import Ears, ListeningClient, Vantage, settings
from collectors.search import Flag, Source
from collectors.session import State
from soulseek_research.simulation import frames, hostile
from soulseek_research.simulation.network import SimulatedNetwork
from tests.listening import ACCOUNT, Listener, listening
from tests.ports import free_port

# What a listener has to tell the server, and nothing else.
SAID_TO_SERVER = {
    "AcceptChildren",
    "AddUser",  # itself, so that the server tells it its own upload speed
    "BranchLevel",
    "BranchRoot",
    "CheckPrivileges",
    "GetUserStats",  # its own
    "Login",
    "SetListenPort",
    "SetStatus",
    "SharedFoldersFiles",
    "TogglePrivateRoomInvites",
    "ToggleParentSearch",
}


@pytest.fixture
async def quiet() -> AsyncIterator[SimulatedNetwork]:
    """A network in which only what a test sends is heard."""
    async with SimulatedNetwork(rate=0, branches=1) as net:
        yield net


@contextlib.asynccontextmanager
async def logged_in(net: SimulatedNetwork, listener: Listener) -> AsyncIterator[ListeningClient]:
    """A bare client that has found its parent."""
    client = ListeningClient(Vantage(*net.server_address, ACCOUNT, "secret"), listener.ears, lambda _place: None)
    await client.start()
    try:
        await client.login()
        await net.until_heard(ACCOUNT)
        yield client
    finally:
        await client.stop()


@pytest.fixture
async def client(quiet: SimulatedNetwork) -> AsyncIterator[ListeningClient]:
    """A bare client that has found its parent."""
    async with logged_in(quiet, Listener()) as one:
        yield one


async def placed(net: SimulatedNetwork, listener: Listener) -> None:
    """Waits until searches arrive."""
    await net.until_heard(ACCOUNT)
    await net.send(("first", 0, "is anybody there"), via="parent" if net.offers_parents else "server")
    await listener.until(lambda: listener.is_listening)


@pytest.mark.parametrize(
    ("via", "source"),
    [
        ("parent", Source.DISTRIBUTED),
        ("embedded", Source.EMBEDDED),
        ("embedded-short", Source.EMBEDDED),
        ("addressed", Source.ADDRESSED),
    ],
)
async def test_a_search_is_heard_by_each_way_in(quiet: SimulatedNetwork, via: str, source: Source) -> None:
    async with listening(quiet) as listener:
        await placed(quiet, listener)
        listener.intake.take()
        await quiet.send(("anna", 7, "ambient 1978"), via=via)
        await listener.until(lambda: listener.intake.pending > 0)
        (row,) = listener.intake.take()
        assert row[1:] == (7, source, 0, "anna", "ambient 1978")


async def test_a_branch_root_hears_the_server(quiet: SimulatedNetwork) -> None:
    await quiet.fault("no-parents")
    async with listening(quiet) as listener:
        await quiet.until_heard(ACCOUNT)
        await quiet.send(("anna", 7, "ambient 1978"), via="server")
        await listener.until(lambda: listener.is_listening)
        (row,) = listener.intake.take()
        assert row[1:] == (7, Source.SERVER, 0, "anna", "ambient 1978")
        assert listener.states[-1] == (State.LISTENING, "branch root at level 0")


async def test_everything_sent_is_heard_exactly_once() -> None:
    async with SimulatedNetwork(rate=500, speed=100, branches=1) as net, listening(net) as listener:
        await listener.until(lambda: listener.counts.kept > 500)
        await net.fault("silence")
        sent = net.sent.to(ACCOUNT)
        await listener.until(lambda: listener.counts.kept + listener.counts.duplicates == len(sent))
        assert not listener.counts.refused
        assert {row[:2] for row in listener.heard} == {one.identity[:2] for one in sent}


async def test_what_had_come_before_the_end_is_heard(quiet: SimulatedNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "REST_SECONDS", 60.0)
    async with listening(quiet) as listener:
        await placed(quiet, listener)
        for ticket in range(1, 50):  # while the reading rests
            await quiet.send(("late", ticket, "the last words"))
        await asyncio.sleep(0)
    assert len(listener.heard) == 50


async def test_no_string_loses_a_search(quiet: SimulatedNetwork) -> None:
    async with listening(quiet) as listener:
        await placed(quiet, listener)
        for ticket, query in enumerate(hostile.QUERIES.values(), start=100):
            await quiet.send(("anna", ticket, query))
            await quiet.send((query[:300], ticket + 1000, "by somebody of that name"))
        await listener.until(lambda: listener.counts.kept == 1 + 2 * len(hostile.QUERIES))
        assert not listener.counts.refused
        rows = {row[1]: row for row in listener.intake.take()}
        undecodable = 100 + list(hostile.QUERIES).index("undecodable")
        assert rows[undecodable][3] & Flag.NOT_UTF8
        assert rows[undecodable + 1000][3] & Flag.NOT_UTF8


@pytest.mark.parametrize("via", ["parent", "addressed"])
@pytest.mark.parametrize("what", ["unknown", "truncated", "empty", "trailing", "code"])
async def test_a_malformed_frame_costs_only_itself(quiet: SimulatedNetwork, what: str, via: str) -> None:
    async with listening(quiet) as listener:
        await placed(quiet, listener)
        await quiet.fault("malformed", what=what, via=via)
        await quiet.send(("anna", 7, "and then"), via=via)
        await listener.until(lambda: ("anna", 7, "and then") in listener.heard)
        refused = {"truncated": {counts.UNREADABLE: 1}, "code": {counts.WRONG_CODE: 1}}
        assert listener.counts.refused == refused.get(what, {})
        assert listener.states[-1][0] is State.LISTENING
        assert quiet.server.logins[ACCOUNT] == 1


async def test_a_stream_out_of_step_is_left(quiet: SimulatedNetwork) -> None:
    async with listening(quiet) as listener:
        await placed(quiet, listener)
        await quiet.fault("oversized", what="header")
        await listener.until(lambda: listener.states[-1][0] is State.LOGGED_IN)
        assert listener.counts.refused == {counts.OVERSIZED: 1}
        await quiet.until_heard(ACCOUNT)
        await quiet.send(("anna", 7, "and then"))
        await listener.until(lambda: ("anna", 7, "and then") in listener.heard)


async def test_a_query_of_megabytes_does_not_cost_the_parent(quiet: SimulatedNetwork) -> None:
    async with listening(quiet) as listener:
        await placed(quiet, listener)
        await quiet.fault("oversized", what="8m")
        await quiet.send(("anna", 7, "and then"))
        await listener.until(lambda: ("anna", 7, "and then") in listener.heard)
        assert listener.counts.refused == {counts.OVERSIZED: 1}
        assert quiet.branches[0].parents[0].arrivals == 1


async def test_a_query_of_64_kib_is_heard(quiet: SimulatedNetwork) -> None:
    async with listening(quiet) as listener:
        await placed(quiet, listener)
        await quiet.fault("oversized", what="64k")
        await listener.until(lambda: listener.counts.kept == 2)


async def test_what_the_server_sends_before_login_is_not_believed(quiet: SimulatedNetwork) -> None:
    searches = frames.addressed(b"anna", 7, b"too early") + frames.embedded(b"anna", 8, b"too early")
    send = quiet.server._login

    def login(message: messages.Login.Request, writer: asyncio.StreamWriter) -> object:
        writer.write(searches)
        return send(message, writer)

    quiet.server._login = login  # type: ignore[method-assign, assignment]
    async with listening(quiet) as listener:
        await placed(quiet, listener)
        assert listener.counts.refused == {counts.BEFORE_LOGIN: 2}
        assert listener.heard == [("first", 0, "is anybody there")]


async def test_our_own_searches_are_nobodys(quiet: SimulatedNetwork) -> None:
    async with listening(quiet) as listener:
        await placed(quiet, listener)
        for via in ("parent", "embedded", "addressed"):
            await quiet.send((ACCOUNT, 7, "our own"), via=via)
        await quiet.send(("anna", 7, "last"), via="parent")
        await quiet.send(("anna", 8, "last"), via="addressed")
        await listener.until(lambda: listener.counts.kept == 3)
        assert "our own" not in {query for _, _, query in listener.heard}


async def test_a_candidate_is_not_believed_before_it_is_the_parent(quiet: SimulatedNetwork) -> None:
    parent = quiet.branches[0].parents[0]
    greeting = parent.greeting()
    before, after = frames.distributed(b"anna", 7, b"before"), frames.distributed(b"anna", 8, b"after")
    parent.greeting = lambda: before + greeting + after  # type: ignore[method-assign]
    async with listening(quiet) as listener:
        await listener.until(lambda: listener.is_listening)
        assert listener.heard == [("anna", 8, "after")]
        assert listener.counts.refused == {counts.NOT_FROM_PARENT: 1}


@pytest.mark.parametrize("port", ["open", "none"])
async def test_what_strangers_inject_is_counted_and_refused(quiet: SimulatedNetwork, port: str) -> None:
    async with listening(quiet, listen_port=free_port() if port == "open" else 0) as listener:
        await placed(quiet, listener)
        quiet.server.upload_speed = 1 << 20
        await quiet.fault("child")  # so that it is a stranger with every right to be connected
        await quiet.fault("inject", count=10)
        await listener.until(lambda: listener.counts.refused == {counts.NOT_FROM_PARENT: 10})
        assert listener.heard == [("first", 0, "is anybody there")]


async def test_a_stranger_who_floods_us_is_cut_off(quiet: SimulatedNetwork) -> None:
    async with listening(quiet, listen_port=free_port()) as listener:
        await placed(quiet, listener)
        await quiet.fault("child")
        (stranger,) = await quiet.fault("inject", count=50_000)
        async with asyncio.timeout(10):
            await stranger.closed.wait()
        assert listener.counts.refused[counts.NOT_FROM_PARENT] < 50_000
        await quiet.send(("anna", 7, "and then"))
        await listener.until(lambda: ("anna", 7, "and then") in listener.heard)


async def test_half_open_strangers_are_few_and_short(quiet: SimulatedNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HANDSHAKE_SECONDS", 0.5)
    monkeypatch.setattr(network, "STRANGERS_MAX", 5)
    port = free_port()
    async with listening(quiet, listen_port=port) as listener:
        await placed(quiet, listener)
        opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(30)]
        ended = [asyncio.create_task(reader.read()) for reader, _ in opened]
        await asyncio.sleep(0.2)
        assert sum(task.done() for task in ended) == 25
        async with asyncio.timeout(5):
            while not all(task.done() for task in ended):
                for _, writer in opened:
                    writer.write(b"\x40")  # the beginning of a message that never ends
                await asyncio.sleep(0.1)
        await asyncio.gather(*ended, return_exceptions=True)
        for _, writer in opened:
            writer.transport.abort()
            await asyncio.gather(writer.wait_closed(), return_exceptions=True)
        await quiet.fault("child")  # there is room again


@pytest.mark.parametrize("kind", ["P", "F"])
async def test_nobody_may_ask_us_for_anything(quiet: SimulatedNetwork, kind: str) -> None:
    port = free_port()
    async with listening(quiet, listen_port=port) as listener:
        await placed(quiet, listener)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(messages.PeerInit.Request("curious", kind, 0).serialize())
        writer.write(messages.PeerSharesRequest.Request().serialize())
        async with asyncio.timeout(5):
            assert await asyncio.gather(reader.read(), return_exceptions=True) in ([b""], [ConnectionResetError])
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


async def test_nobodys_address_is_asked_for(quiet: SimulatedNetwork) -> None:
    async with listening(quiet) as listener:
        await placed(quiet, listener)
        (account,) = quiet.accounts()
        with socket.create_server(("127.0.0.1", 0)) as elsewhere:
            elsewhere.setblocking(False)
            for kind in ("P", "F"):
                account.send(
                    messages.ConnectToPeer.Response(
                        "curious", kind, "127.0.0.1", elsewhere.getsockname()[1], 1, False, 0, 0
                    )
                )
            await quiet.fault("child")
            await quiet.fault("lose-parent")
            await listener.until(lambda: quiet.branches[0].parents[0].arrivals == 2)
            await quiet.until_heard(ACCOUNT)
            await quiet.send(("anna", 7, "and then"))
            await listener.until(lambda: ("anna", 7, "and then") in listener.heard)
            with pytest.raises(BlockingIOError):
                elsewhere.accept()
    assert set(quiet.server.received) <= SAID_TO_SERVER


async def test_only_an_offered_parent_is_connected_to_and_only_when_there_is_none(
    quiet: SimulatedNetwork, client: ListeningClient
) -> None:
    parent = quiet.branches[0].parents[0]
    offered = (parent.username, "D", "127.0.0.1", parent.port)
    with pytest.raises(PeerConnectionError):
        await client.network.create_peer_connection(*offered)
    await quiet.fault("no-parents")
    await quiet.until_heard(ACCOUNT)
    for peer in (("curious", "P"), ("curious", "P", "127.0.0.1", parent.port), ("curious", "D")):
        with pytest.raises(PeerConnectionError):
            await client.network.create_peer_connection(*peer)
    assert parent.arrivals == 1
    await client.network.create_peer_connection(*offered)
    assert set(quiet.server.received) <= SAID_TO_SERVER


async def test_after_its_end_a_session_hears_nothing(quiet: SimulatedNetwork) -> None:
    listener = Listener()
    async with logged_in(quiet, listener) as client:
        await quiet.send(("anna", 7, "before"))
        await listener.until(lambda: listener.counts.kept == 1)
        client.distributed_network.leave("stopped")
        await quiet.send(("anna", 8, "after"))
        await quiet.send(("anna", 9, "after"), via="addressed")
        await asyncio.sleep(0.2)
    assert listener.counts.kept == 1
    assert [stretch["end_reason"] for stretch in listener.stretches()] == ["stopped"]


async def test_the_servers_answers_are_recognised(client: ListeningClient) -> None:
    """aioslsk compares classes: with a connection of our own it would ask for ever."""
    await Listener().until(lambda: client.users.is_tracked(ACCOUNT))


async def test_there_is_no_listening_port_unless_asked_for(quiet: SimulatedNetwork) -> None:
    async with listening(quiet) as listener:
        await placed(quiet, listener)
        assert quiet.accounts()[0].port == 0
    listener = Listener()
    client = ListeningClient(Vantage(*quiet.server_address, ACCOUNT, "secret"), listener.ears, lambda _place: None)
    assert client.network.listening_connections == (None, None)
    port = free_port()
    async with listening(quiet, listen_port=port) as listener:
        await placed(quiet, listener)
        assert quiet.accounts()[0].port == port


def test_the_environment_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    vantage = Vantage("127.0.0.1", 2242, ACCOUNT, "secret")
    expected = settings(vantage)
    for name in ("NETWORK", "CREDENTIALS", "SEARCHES", "SHARES", "USERS", "ROOMS", "INTERESTS", "TRANSFERS"):
        monkeypatch.setenv(name, "{}")
    monkeypatch.setenv("DEBUG", "1")
    monkeypatch.setenv("SHARES", '{"directories": [{"path": "/"}], "scan_on_start": true}')
    assert settings(vantage) == expected
    assert expected.shares.directories == []
    assert not expected.shares.scan_on_start
    assert not expected.network.upnp.enabled
    assert not expected.network.server.reconnect.auto


def test_a_password_is_not_shown() -> None:
    vantage = Vantage("127.0.0.1", 2242, ACCOUNT, "secret")
    assert "secret" not in repr(vantage)
    assert Ears.__name__ in repr(Listener().ears)
