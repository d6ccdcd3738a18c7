import asyncio
import gc
import json
import logging
import os
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from collectors import session
from collectors.client import ListeningClient, Vantage
from collectors.session import Ending, State, Terms
from collectors.supervisor import AccountInUseElsewhere, CredentialsRefused, Patience
from soulseek_research.simulation.network import SimulatedNetwork
from tests.listening import ACCOUNT, HASTE, Listener, listening, private_logs
from tests.ports import free_port

SHORT = Terms(connect_seconds=0.5, login_seconds=0.5, silence_seconds=0.5)


@pytest.fixture
async def lively() -> AsyncIterator[SimulatedNetwork]:
    """A network where people search."""
    async with SimulatedNetwork(rate=200, speed=100, branches=1, hostile_share=0) as net:
        yield net


async def heard_more(listener: Listener, seconds: float = 10.0) -> None:
    """Waits until new searches arrive."""
    before = listener.counts.kept
    await listener.until(lambda: listener.counts.kept > before + 3, seconds)


@pytest.mark.parametrize(
    ("fault", "options", "ending"),
    [
        ("fin", {}, Ending.SERVER_CLOSED),
        ("rst", {}, Ending.CONNECTION_LOST),
        ("restart", {"seconds": 0.5}, Ending.SERVER_CLOSED),
        ("restart", {"seconds": 0.5, "reset": True}, Ending.CONNECTION_LOST),
        ("kick", {}, Ending.KICKED),
    ],
)
async def test_after_a_lost_server_it_listens_again(
    lively: SimulatedNetwork, fault: str, options: dict[str, object], ending: Ending
) -> None:
    async with listening(lively) as listener:
        await heard_more(listener)
        await lively.fault(fault, **options)
        await listener.until(lambda: listener.times(State.WAITING) > 0)
        await heard_more(listener)
        assert listener.stretches()[0]["end_reason"] == ending.value
        assert listener.stretches()[-1]["end_reason"] is None
        # Each stretch counts its own, and everything that was written to us arrived.
        assert sum(one["kept"] for one in listener.stretches()) == listener.counts.kept


async def test_a_lost_parent_does_not_cost_the_session(lively: SimulatedNetwork) -> None:
    async with listening(lively) as listener:
        await heard_more(listener)
        await lively.fault("lose-parent")
        await listener.until(lambda: listener.states[-1][0] is State.LOGGED_IN)
        await heard_more(listener)
        assert lively.server.logins[ACCOUNT] == 1


async def test_silence_is_noticed_and_its_stretch_ends_at_the_last_search(lively: SimulatedNetwork) -> None:
    """A login elsewhere, even with a wrong password, can take an account off the server's list: TCP stands."""
    async with listening(lively, terms=SHORT) as listener:
        await heard_more(listener)
        await lively.fault("silence", username=ACCOUNT)
        await listener.until(lambda: lively.server.logins[ACCOUNT] > 2)
        await lively.fault("restore")
        assert listener.times(State.LISTENING) == 1
        await heard_more(listener)
        first = listener.stretches()[0]
        assert first["end_reason"] == Ending.STARVED.value
        assert first["ended_at"] < listener.stretches()[1]["started_at"]


async def test_searches_aimed_at_us_do_not_hide_that_the_tree_is_silent() -> None:
    async with SimulatedNetwork(rate=0, branches=1) as net, listening(net, terms=SHORT) as listener:
        await net.until_heard(ACCOUNT)
        await net.send(("anna", 0, "by the parent"))
        await listener.until(lambda: listener.is_listening)
        async with asyncio.timeout(10):
            while net.server.logins[ACCOUNT] == 1:
                await net.send(("anna", net.ticket(), "to you"), via="addressed")
                await asyncio.sleep(0.05)


async def test_where_all_searches_are_aimed_at_us_they_are_enough() -> None:
    """So one server in the world sends them."""
    async with SimulatedNetwork(rate=0, branches=1) as net:
        await net.fault("no-parents")
        async with listening(net, terms=SHORT) as listener:
            for _ in range(30):
                await net.send(("anna", net.ticket(), "to you"), via="addressed")
                await asyncio.sleep(0.05)
            assert net.server.logins[ACCOUNT] == 1
            assert listener.counts.kept > 10


@pytest.mark.parametrize("fault", ["mute-login", "refuse-login"])
async def test_a_login_that_is_not_granted_is_tried_again(lively: SimulatedNetwork, fault: str) -> None:
    options = {"reason": "SVRFULL"} if fault == "refuse-login" else {}
    await lively.fault(fault, **options)
    async with listening(lively, terms=SHORT) as listener:
        await listener.until(lambda: lively.server.logins[ACCOUNT] >= 3)
        assert not listener.counts.kept
        await lively.fault("restore")
        await heard_more(listener)


async def test_a_login_that_is_not_granted_after_a_fall_is_tried_again(lively: SimulatedNetwork) -> None:
    async with listening(lively, terms=SHORT) as listener:
        await heard_more(listener)
        await lively.fault("mute-login")
        await lively.fault("fin")
        await listener.until(lambda: lively.server.logins[ACCOUNT] >= 3)
        await lively.fault("restore")
        await heard_more(listener)


async def test_a_server_that_is_not_there_yet_is_waited_for() -> None:
    port = free_port()
    net = SimulatedNetwork(rate=200, speed=100, branches=1, port=port)
    async with listening(net, terms=SHORT) as listener:
        await listener.until(lambda: listener.times(State.WAITING) >= 3)
        assert (
            "cannot connect (ConnectionRefusedError)" in listener.states[-1][1] or listener.times(State.CONNECTING) > 3
        )
        async with net:
            await heard_more(listener)


async def test_a_server_that_closes_at_once_is_waited_for(lively: SimulatedNetwork) -> None:
    """So it treats an address that connects too often."""
    serve = lively.server.listener._serve

    async def close(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        return

    lively.server.listener._serve = close
    async with listening(lively, terms=SHORT) as listener:
        await listener.until(lambda: listener.times(State.WAITING) >= 3)
        lively.server.listener._serve = serve
        await heard_more(listener)


@pytest.mark.parametrize("reason", ["INVALIDPASS", "INVALIDUSERNAME", "EMPTYPASSWORD"])
async def test_wrong_credentials_stop_it_with_a_clear_word(lively: SimulatedNetwork, reason: str) -> None:
    await lively.fault("refuse-login", reason=reason)
    async with listening(lively) as listener:
        with pytest.raises(CredentialsRefused, match=reason) as caught:
            await listener.until(lambda: False)
        assert ACCOUNT not in str(caught.value)
        assert caught.value.__context__ is None  # what aioslsk raised holds the name
        assert lively.server.logins[ACCOUNT] == 1
        assert listener.states[-1][0] is State.STOPPED


async def test_an_account_that_is_used_elsewhere_stops_it(lively: SimulatedNetwork) -> None:
    async with listening(lively) as listener:
        for login in (1, 2, 3):  # twice may be an accident
            await listener.until(lambda login=login: listener.times(State.LISTENING) == login)
            await lively.fault("kick")
        with pytest.raises(AccountInUseElsewhere, match="logged in elsewhere"):
            await listener.until(lambda: False)
        assert lively.server.logins[ACCOUNT] == 3
        assert listener.states[-1][0] is State.STOPPED


async def test_kicks_that_lie_far_apart_do_not_stop_it(lively: SimulatedNetwork) -> None:
    patience = Patience(first_seconds=0.02, most_seconds=0.1, kick_window_seconds=0.1)
    async with listening(lively, patience=patience) as listener:
        for login in range(1, 5):
            await listener.until(lambda login=login: listener.times(State.LISTENING) == login)
            await asyncio.sleep(0.1)
            await lively.fault("kick")
        await listener.until(lambda: listener.times(State.LISTENING) == 5)


async def test_a_taken_listening_port_is_waited_for(lively: SimulatedNetwork) -> None:
    with socket.create_server(("0.0.0.0", 0)) as other:
        port = other.getsockname()[1]
        async with listening(lively, listen_port=port) as listener:
            await listener.until(lambda: listener.times(State.WAITING) >= 2)
            assert any(Ending.CANNOT_LISTEN.value in detail for _, detail in listener.states)
            other.close()
            await heard_more(listener)


async def test_a_client_is_renewed_when_it_is_old(lively: SimulatedNetwork) -> None:
    async with listening(lively, terms=Terms(session_seconds=0.5)) as listener:
        await listener.until(lambda: lively.server.logins[ACCOUNT] >= 4)
        await heard_more(listener)
        assert {one["end_reason"] for one in listener.stretches()} <= {Ending.RENEWED.value, None}


@pytest.mark.parametrize("state", [State.CONNECTING, State.LISTENING, State.WAITING])
async def test_it_stops_at_once_in_any_state(lively: SimulatedNetwork, state: State) -> None:
    if state is State.CONNECTING:
        await lively.fault("mute-login")
    if state is State.WAITING:
        await lively.fault("refuse-login", reason="SVRFULL")
    async with listening(lively, patience=Patience(first_seconds=30)) as listener:
        await listener.until(lambda: listener.states[-1:] != [] and listener.states[-1][0] is state)
        await asyncio.sleep(0.1)
        assert listener.task is not None
        listener.task.cancel()
        async with asyncio.timeout(1):
            await asyncio.gather(listener.task, return_exceptions=True)
        assert listener.states[-1] == (State.STOPPED, "stopped")
        assert listener.states[-2][0] is state
        assert {one["end_reason"] for one in listener.stretches()} <= {"stopped"}


async def test_waiting_grows_and_begins_anew_after_success(lively: SimulatedNetwork) -> None:
    patience = Patience(first_seconds=0.02, most_seconds=0.3, settled_seconds=0.2)
    await lively.fault("refuse-login", reason="SVRFULL")
    async with listening(lively, patience=patience) as listener:
        await listener.until(lambda: listener.times(State.WAITING) >= 12)
        waits = [float(detail.split()[0]) for state, detail in listener.states if state is State.WAITING]
        assert waits[0] <= 0.05
        assert max(waits) <= 0.3
        assert max(waits[6:]) > 0.1
        await lively.fault("restore")
        await heard_more(listener)
        await asyncio.sleep(0.3)
        await lively.fault("fin")
        await listener.until(lambda: listener.states[-1][0] is State.WAITING)
        assert float(listener.states[-1][1].split()[0]) <= 0.05


@pytest.fixture
def private() -> Iterator[None]:
    """The guard over the logs. Without it, aioslsk's log records hold its connections, and pytest the records."""
    with private_logs(debug=True):
        yield


@pytest.mark.usefixtures("private")
async def test_nothing_is_left_of_200_sessions(lively: SimulatedNetwork) -> None:
    listener = Listener()
    vantage = Vantage(*lively.server_address, ACCOUNT, "secret", listen_port=free_port())
    faults = ("fin", "rst", "kick", None)

    def tell(state: State, _detail: str) -> None:
        if state is State.LISTENING and (fault := faults[number % 4]):
            ends.append(asyncio.create_task(lively.fault(fault)))

    ends: list[asyncio.Task[None]] = []
    endings = set()
    tasks, descriptors = 0, 0
    for number in range(200):
        terms = Terms(session_seconds=0.05 if faults[number % 4] is None else 60)
        ended = await session.listen(vantage, listener.ears, terms=terms, on_state=tell)
        endings.add(ended.ending)
        if number == 20:  # the first ones load what is loaded once
            await asyncio.gather(*ends)
            await asyncio.sleep(0.1)
            tasks, descriptors = len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    await asyncio.gather(*ends)
    await asyncio.sleep(0.1)
    assert endings == {Ending.SERVER_CLOSED, Ending.CONNECTION_LOST, Ending.KICKED, Ending.RENEWED}
    assert len(asyncio.all_tasks()) <= tasks
    assert len(os.listdir("/proc/self/fd")) <= descriptors  # noqa: PTH208
    gc.collect()
    assert sum(isinstance(one, ListeningClient) for one in gc.get_objects()) == 0


class Everything(logging.FileHandler):
    """Writes all that a record holds, as the most careless handler would."""

    def emit(self, record: logging.LogRecord) -> None:
        super().emit(record)
        self.stream.write(json.dumps(record.__dict__, default=repr) + "\n")


async def test_no_name_is_in_any_log_whatever_happens(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], private: None
) -> None:
    path = tmp_path / "all.log"
    handler = Everything(path)
    logging.root.addHandler(handler)
    logging.root.setLevel(logging.DEBUG)
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    names: set[str] = set()
    try:
        async with (
            SimulatedNetwork(rate=100, speed=100, branches=1, parent_levels=(2,)) as net,
            listening(net, terms=SHORT, listen_port=free_port()) as listener,
        ):
            await heard_more(listener)
            for fault in ("child", "inject", "usurp", "malformed", "lose-parent", "leave"):
                await net.fault(fault)
                await heard_more(listener)
            for what, via in (("noise", "parent"), ("header", "parent"), ("noise", "addressed")):
                await net.fault("malformed" if what == "noise" else "oversized", what=what, via=via)
                await asyncio.sleep(0.2)
                await heard_more(listener)
            await net.send(("raw_bytes", 7, b"\x81\x8d raw"))
            account = net.accounts()[0]
            for fault in ("fin", "rst", "kick", "mute-login"):
                await net.fault(fault)
                await asyncio.sleep(0.3)
            await net.fault("restore")
            await heard_more(listener)
            names = {one.username for one in (*net.sent, *net.injected) if len(one.username) > 3}
            names |= {"root0.1", "child0", "stranger", "usurper", ACCOUNT, account.username}
        gc.collect()
    finally:
        loop.set_debug(False)
        logging.root.removeHandler(handler)
        logging.root.setLevel(logging.WARNING)
        handler.close()
    written = path.read_text() + "".join(capfd.readouterr())
    assert "aioslsk.network.connection" in written
    assert len(written) > 50_000
    assert len(names) > 100
    assert {name for name in names if name in written} == set()


async def test_a_callback_that_fails_does_not_stop_the_listening(
    lively: SimulatedNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(listener: Listener, state: State, detail: str) -> None:
        listener.states.append((state, detail))
        raise ValueError

    monkeypatch.setattr(Listener, "on_state", fail)
    async with listening(lively) as listener:
        await heard_more(listener)
        await heard_more(listener)
        assert lively.server.logins[ACCOUNT] == 1


def test_the_haste_of_tests_is_not_the_haste_of_the_world() -> None:
    assert Patience() == Patience(1.0, 300.0, 60.0, 3, 3600.0)
    assert Patience() != HASTE
