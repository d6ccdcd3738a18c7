import asyncio
from pathlib import Path

import pytest

from collectors import epochs
from collectors.keys import KeyRing, KeyRingError
from collectors.pseudonym import Epoch, Pseudonymiser
from collectors.spool import Spool
from soulseek_research.storage import database as db
from soulseek_research.storage.database import DatabaseAwayError, Role
from soulseek_research.storage.errors import StorageError
from soulseek_research.storage.location import Location
from tests import databases


async def start(dsn: str, keys: Path) -> Pseudonymiser:
    connection = await db.connect(dsn, role=Role.COLLECTOR)
    try:
        ring = KeyRing(keys)
        return Pseudonymiser(ring, await epochs.settle(connection, ring, "aes-siv"))
    finally:
        await connection.close()


async def test_ten_first_starts_on_one_machine_agree_on_one_key(database: str, tmp_path: Path) -> None:
    started = await asyncio.gather(*(start(database, tmp_path / "keys") for _ in range(10)))

    assert len({pseudonym("somebody", 0) for pseudonym in started}) == 1
    assert len(KeyRing(tmp_path / "keys").key_ids) == 1


async def test_of_first_starts_on_many_machines_one_registers_and_the_others_lack_its_key(
    database: str, tmp_path: Path
) -> None:
    started = await asyncio.gather(*(start(database, tmp_path / f"keys-{number}") for number in range(4)))

    assert sorted(pseudonym.next_missing(0) is None for pseudonym in started) == [False, False, False, True]


async def test_a_key_that_is_here_already_is_registered_instead_of_a_new_one(database: str, tmp_path: Path) -> None:
    key = KeyRing(tmp_path / "keys").new("hmac-sha256")

    pseudonym = await start(database, tmp_path / "keys")

    assert pseudonym("somebody", 0).startswith(f"{key.key_id}.")


async def test_of_several_keys_none_is_guessed(database: str, tmp_path: Path) -> None:
    ring = KeyRing(tmp_path / "keys")
    ring.new("aes-siv")
    ring.new("aes-siv")

    with pytest.raises(KeyRingError, match="key rotate --key"):
        await start(database, tmp_path / "keys")


async def test_a_start_without_the_database_uses_the_epochs_last_seen(database: str, tmp_path: Path) -> None:
    ring = KeyRing(tmp_path / "keys")
    away = Location(databases.named(database, "gone"))
    with Spool(tmp_path / "spool.sqlite") as spool:
        with pytest.raises(StorageError):
            await epochs.at_start(Location("postgresql://somebody@127.0.0.1:1/nowhere"), spool, ring, "aes-siv")
        seen = await epochs.at_start(Location(database), spool, ring, "aes-siv")

        assert await epochs.at_start(Location("postgresql://somebody@127.0.0.1:1/x"), spool, ring, "aes-siv") == seen
        assert isinstance(seen[0], Epoch)
        with pytest.raises(StorageError) as refusal:
            await epochs.at_start(away, spool, ring, "aes-siv")
        assert not isinstance(refusal.value, DatabaseAwayError)
