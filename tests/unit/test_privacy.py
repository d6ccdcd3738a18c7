import asyncio
import json
import logging
from collections.abc import Iterator

import pytest
from aioslsk.exceptions import AuthenticationError, MessageDeserializationError

from collectors import privacy
from tests.listening import private_logs

NAME = "zaphod_b"


class Everything(logging.Handler):
    """Writes all that a record holds, as the most careless handler would."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record) + json.dumps(record.__dict__, default=repr))


@pytest.fixture
def written() -> Iterator[list[str]]:
    handler = Everything()
    logging.root.addHandler(handler)
    logging.root.setLevel(logging.DEBUG)
    with private_logs(debug=True):
        yield handler.lines
    logging.root.removeHandler(handler)
    logging.root.setLevel(logging.WARNING)


def speak(logger: logging.Logger) -> None:
    logger.warning("user %s", NAME)
    logger.warning("users %(name)s", {"name": NAME})
    logger.warning(f"user {NAME}")  # noqa: G004 - aioslsk does
    logger.warning("user", extra={"username": NAME, "connection": {"name": NAME}}, stack_info=True)
    logger.warning("user %r", MessageDeserializationError(NAME.encode(), NAME))
    try:
        fail()
    except AuthenticationError:
        logger.exception("user %s", NAME)


def fail() -> None:
    raise AuthenticationError("INVALIDPASS", NAME)


def test_no_logger_of_aioslsk_or_asyncio_can_write_a_name(written: list[str]) -> None:
    names = [name for name in logging.root.manager.loggerDict if privacy.is_talkative(name)]
    assert {"aioslsk.network.connection", "aioslsk.search.manager", "aioslsk.distributed", "asyncio"} <= set(names)
    for name in names:
        speak(logging.getLogger(name))
    assert len(written) >= 6 * len(names)
    assert NAME not in "".join(written)


def test_a_logger_made_later_is_guarded_from_its_first_record(written: list[str]) -> None:
    for name in ("aioslsk.made_later", "asyncio.made.later"):
        speak(logging.getLogger(name))
    assert len(written) == 12
    assert NAME not in "".join(written)


def test_an_adapter_writes_no_name_either(written: list[str]) -> None:
    from aioslsk.network import connection  # noqa: PLC0415

    fields = {"hostname": "127.0.0.1", "port": 1, "username": NAME}
    connection.adapter.warning("received message : %s", NAME, extra=fields)
    assert len(written) == 1
    assert NAME not in written[0]


def test_what_remains_says_where_and_what_kind(written: list[str]) -> None:
    speak(logging.getLogger("aioslsk.distributed"))
    assert "aioslsk.distributed.speak:" in written[0]
    assert "MessageDeserializationError" in written[4]
    assert "AuthenticationError" in written[5]


def test_other_loggers_are_left_alone(written: list[str]) -> None:
    logging.getLogger("collectors.something").warning("a %s", "word", extra={"more": 1})
    assert "a word" in written[0]
    assert '"more": 1' in written[0]


def test_it_can_be_installed_twice() -> None:
    with private_logs(debug=False):
        factory = logging.getLogRecordFactory()
        privacy.install(debug=True)
        assert logging.getLogRecordFactory() is factory
        assert logging.getLogger("aioslsk.distributed").filters == [privacy.SCRUB]


def test_when_debugging_all_is_said_whatever_other_libraries_may_say() -> None:
    with private_logs(debug=True):
        assert logging.root.level == logging.WARNING
        assert logging.getLogger("aioslsk.network.connection").isEnabledFor(logging.DEBUG)


def test_unless_debugging_only_errors_are_said() -> None:
    with private_logs(debug=False):
        assert not logging.getLogger("aioslsk.distributed").isEnabledFor(logging.WARNING)
        assert logging.getLogger("aioslsk.distributed").isEnabledFor(logging.ERROR)


async def test_what_nobody_caught_is_told_by_its_type(written: list[str]) -> None:
    loop = asyncio.get_running_loop()
    privacy.guard_loop(loop)

    async def fail_later(name: str) -> None:
        raise ValueError(name)

    def fail_at_once(name: str) -> None:
        raise KeyError(name)

    task = asyncio.create_task(fail_later(NAME), name=f"direct-connect-{NAME}")
    await asyncio.wait([task])
    del task
    loop.call_soon(fail_at_once, NAME)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    text = "".join(written)
    assert "ValueError" in text
    assert "KeyError" in text
    assert "fail_at_once" in text
    assert NAME not in text


def test_what_cannot_be_raised_is_told_by_its_type(written: list[str]) -> None:
    class Fragile:
        def __del__(self) -> None:
            raise ValueError(NAME)

    Fragile()
    assert "ValueError" in "".join(written)
    assert NAME not in "".join(written)


def test_an_exception_is_described_by_type_and_place() -> None:
    with pytest.raises(AuthenticationError) as caught:
        fail()
    assert privacy.describe(caught.value) == "AuthenticationError"
    assert privacy.whereabouts(caught.value).startswith("test_privacy.py:")
    assert privacy.whereabouts(caught.value).endswith(" fail")
