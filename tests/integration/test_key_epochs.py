import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from soulseek_research.storage import epochs
from soulseek_research.storage.database import Role
from soulseek_research.storage.errors import StorageError
from tests import databases

SOON = timedelta(hours=2)


@pytest.fixture
async def owner(database: str) -> AsyncIterator[asyncpg.Connection]:
    async with databases.connected(database) as connection:
        yield connection


@pytest.fixture
async def keyed(owner: asyncpg.Connection) -> asyncpg.Connection:
    """With a first key."""
    assert await epochs.register_first(owner, "first", "f1", "aes-siv")
    return owner


def _later(wait: timedelta = SOON) -> datetime:
    return datetime.now(UTC).replace(microsecond=0) + wait


async def test_the_first_key_counts_from_the_beginning(owner: asyncpg.Connection) -> None:
    assert await epochs.known(owner) == []
    assert await epochs.register_first(owner, "first", "f1", "aes-siv")
    assert not await epochs.register_first(owner, "second", "f2", "aes-siv")
    assert await epochs.known(owner) == [epochs.KeyEpoch("first", "f1", "aes-siv", None)]


async def test_a_collector_sees_what_the_owner_announces(database: str, keyed: asyncpg.Connection) -> None:
    second, third = _later(), _later(2 * SOON)
    await epochs.announce(keyed, "second", "f2", "hmac-sha256", second)
    await epochs.announce(keyed, "third", "f3", "aes-siv", third.astimezone())
    async with databases.connected(database, role=Role.COLLECTOR) as collector:
        assert await epochs.known(collector) == [
            epochs.KeyEpoch("first", "f1", "aes-siv", None),
            epochs.KeyEpoch("second", "f2", "hmac-sha256", second),
            epochs.KeyEpoch("third", "f3", "aes-siv", third),
        ]


async def test_a_key_is_announced_ahead(keyed: asyncpg.Connection) -> None:
    for wait in (timedelta(days=-1), timedelta(minutes=59)):
        with pytest.raises(StorageError, match="at least 1:00:00 ahead"):
            await epochs.announce(keyed, "second", "f2", "aes-siv", _later(wait))
    await epochs.announce(keyed, "second", "f2", "aes-siv", _later(timedelta(seconds=5)), notice=timedelta(seconds=1))


async def test_an_epoch_that_was_announced_is_not_shortened(keyed: asyncpg.Connection) -> None:
    begin = _later(2 * SOON)
    await epochs.announce(keyed, "second", "f2", "aes-siv", begin)
    for earlier in (_later(), begin):
        with pytest.raises(StorageError, match="announced already: a later one begins after it"):
            await epochs.announce(keyed, "third", "f3", "aes-siv", earlier)


@pytest.mark.parametrize(("key_id", "fingerprint"), [("first", "f2"), ("second", "f1")])
async def test_a_key_is_registered_once(keyed: asyncpg.Connection, key_id: str, fingerprint: str) -> None:
    with pytest.raises(StorageError, match=f'the key "{key_id}" is registered already'):
        await epochs.announce(keyed, key_id, fingerprint, "aes-siv", _later())


async def test_of_ten_that_announce_the_same_moment_one_does(database: str, keyed: asyncpg.Connection) -> None:
    begin = _later()

    async def announce(number: int) -> bool:
        async with databases.connected(database) as connection:
            try:
                await epochs.announce(connection, f"k{number}", f"another{number}", "aes-siv", begin)
            except StorageError:
                return False
            return True

    assert sorted(await asyncio.gather(*(announce(number) for number in range(10)))) == [False] * 9 + [True]


async def test_without_a_first_key_there_is_no_next(owner: asyncpg.Connection) -> None:
    with pytest.raises(StorageError, match="no key is registered yet"):
        await epochs.announce(owner, "first", "f1", "aes-siv", _later())


async def test_an_algorithm_nobody_knows(keyed: asyncpg.Connection) -> None:
    with pytest.raises(StorageError, match='no key algorithm "rot13"'):
        await epochs.announce(keyed, "second", "f2", "rot13", _later())


async def test_a_moment_needs_a_time_zone(keyed: asyncpg.Connection) -> None:
    with pytest.raises(StorageError, match="time zone"):
        await epochs.announce(keyed, "second", "f2", "aes-siv", _later().replace(tzinfo=None))


@pytest.mark.parametrize("role", Role)
async def test_only_the_owner_announces(database: str, keyed: asyncpg.Connection, role: Role) -> None:
    async with databases.connected(database, role=role) as connection:
        with pytest.raises(StorageError, match="only the owner of the database may announce a key"):
            await epochs.announce(connection, "second", "f2", "aes-siv", _later())
