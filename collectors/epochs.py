"""Which pseudonym key counts when: asked of the database, remembered in the spool for when it is away."""

import dataclasses
import json
import logging

import asyncpg

from collectors.keys import KeyRing, KeyRingError
from collectors.pseudonym import Epoch
from collectors.spool import SpoolReader
from soulseek_research.storage import epochs as storage
from soulseek_research.storage import location
from soulseek_research.storage.database import DatabaseAwayError, Role

_log = logging.getLogger(__name__)
_FACT = "key epochs"
_LOCK = "SELECT pg_advisory_lock(hashtextextended('soulseek-research first key', 0))"
_UNLOCK = "SELECT pg_advisory_unlock(hashtextextended('soulseek-research first key', 0))"


async def settle(connection: asyncpg.Connection, ring: KeyRing, algorithm: str) -> list[Epoch]:
    """Return the epochs that the database knows; only when it knows none is a first key registered, made if need be.

    Args:
        connection: as a collector.
        ring: the keys held here.
        algorithm: of a key that has to be made.

    Raises:
        KeyRingError: several keys are here and none is registered.
    """
    epochs = await known(connection)
    if not epochs:
        # One at a time, wherever they start: each sees the key that another has just made and registered.
        await connection.execute(_LOCK)
        try:
            ring.reload()
            if not await storage.known(connection):
                await _register(connection, ring, algorithm)
        finally:
            await connection.execute(_UNLOCK)
        epochs = await known(connection)
    ring.reload()  # another collector of this machine may have made the key after we looked
    return epochs


async def _register(connection: asyncpg.Connection, ring: KeyRing, algorithm: str) -> None:
    if len(ring.key_ids) > 1:
        raise KeyRingError(
            f"several keys are in {ring.directory} and none is registered in the database: "
            "say which one counts with `soulseek-research key rotate --key KEY_ID`"
        )
    key = ring.get(ring.key_ids[0]) if ring.key_ids else ring.new(algorithm)
    await storage.register_first(connection, key.key_id, key.fingerprint, key.algorithm)
    _log.warning(
        "The pseudonym key %s is in %s. Keep a copy apart from the database: without it no other region can join, "
        "and no question about a person can be answered (`soulseek-research key export %s`)",
        key.key_id,
        ring.directory,
        key.key_id,
    )


async def at_start(database: location.Location, spool: SpoolReader, ring: KeyRing, algorithm: str) -> list[Epoch]:
    """Return the epochs as `settle` does, or as last remembered when the database is away.

    Raises:
        StorageError: the database cannot be used, or is away and this spool has never met it.
        KeyRingError: as from `settle`.
    """
    try:
        await database.prepare()
        async with database.session(Role.COLLECTOR) as connection:
            epochs = await settle(connection, ring, algorithm)
    except DatabaseAwayError as error:
        remembered = recall(spool)
        if not remembered:
            raise
        _log.warning("the database is away, searches wait in the spool: %s", error)
        return remembered
    remember(spool, epochs)
    return epochs


async def known(connection: asyncpg.Connection) -> list[Epoch]:
    """Return the epochs that the database knows."""
    return [
        Epoch(
            one.key_id,
            one.fingerprint,
            one.algorithm,
            None if one.valid_from is None else round(one.valid_from.timestamp() * 1000),
        )
        for one in await storage.known(connection)
    ]


def remember(spool: SpoolReader, epochs: list[Epoch]) -> None:
    """Keep the epochs for a start without the database."""
    spool.remember(_FACT, json.dumps([dataclasses.asdict(epoch) for epoch in epochs]))


def recall(spool: SpoolReader) -> list[Epoch]:
    """Return the epochs as last remembered; none when this spool has never met its database."""
    text = spool.recall(_FACT)
    return [Epoch(**fields) for fields in json.loads(text)] if text else []
