"""The epochs of the pseudonym keys: which key counts from when. Only fingerprints are here, never a key."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import asyncpg
from asyncpg import exceptions

from soulseek_research.storage import queries
from soulseek_research.storage.errors import StorageError

# A collector asks for new epochs now and then, and somebody has to carry the key to every region before it counts.
NOTICE = timedelta(hours=1)


@dataclass(frozen=True)
class KeyEpoch:
    """What the database knows of one key."""

    key_id: str
    fingerprint: str  # hex
    algorithm: str  # "aes-siv" or "hmac-sha256"
    valid_from: datetime | None  # UTC; None for the first, which has no beginning


async def known(connection: asyncpg.Connection) -> list[KeyEpoch]:
    """Return all epochs, the first one first."""
    rows = await connection.fetch(queries.load("known_key_epochs"))
    return [KeyEpoch(row["key_id"], row["fingerprint"], row["algorithm"], row["valid_from"]) for row in rows]


async def register_first(connection: asyncpg.Connection, key_id: str, fingerprint: str, algorithm: str) -> bool:
    """Register the first key there is. Any collector may; of many at once one succeeds.

    Returns:
        Whether it was this one; False when a key is registered already.
    """
    return bool(
        await connection.fetchval("SELECT public.register_first_key($1, $2, $3)", key_id, fingerprint, algorithm)
    )


async def announce(
    connection: asyncpg.Connection,
    key_id: str,
    fingerprint: str,
    algorithm: str,
    valid_from: datetime,
    *,
    notice: timedelta = NOTICE,
) -> None:
    """Announce the key that takes over at a time to come. Only the owner of the database may.

    Args:
        connection: Outside a transaction.
        key_id: The key's id.
        fingerprint: Its fingerprint, in hex.
        algorithm: "aes-siv" or "hmac-sha256".
        valid_from: When it takes over, with a time zone.
        notice: How long before that it has to be known, by the clock of the database.

    Raises:
        StorageError: There is no first key, this one is known already, or the time is too near or before an epoch that
            was announced earlier.
    """
    if valid_from.tzinfo is None:
        raise StorageError("say in which time zone the new key takes over")
    try:
        async with connection.transaction(isolation="read_committed"):
            await connection.execute("LOCK TABLE public.key_epochs IN SHARE ROW EXCLUSIVE MODE")
            await _check(connection, key_id, fingerprint, valid_from, notice)
            await connection.execute(
                queries.load("announce_key_epoch"), key_id, fingerprint, algorithm, valid_from.astimezone(UTC)
            )
    except exceptions.InsufficientPrivilegeError:
        raise StorageError("only the owner of the database may announce a key: connect with its login") from None
    except exceptions.CheckViolationError:
        raise StorageError(f'there is no key algorithm "{algorithm}": it is aes-siv or hmac-sha256') from None


async def _check(
    connection: asyncpg.Connection, key_id: str, fingerprint: str, valid_from: datetime, notice: timedelta
) -> None:
    now = await connection.fetchval("SELECT now()")
    epochs = await known(connection)
    if not epochs:
        raise StorageError("no key is registered yet: the first start of a collector registers one")
    if any(key_id == epoch.key_id or fingerprint == epoch.fingerprint for epoch in epochs):
        raise StorageError(f'the key "{key_id}" is registered already')
    newest = epochs[-1].valid_from
    if newest is not None and valid_from <= newest:
        raise StorageError(
            f"an epoch that begins at {newest:%Y-%m-%d %H:%M:%S} UTC is announced already: a later one begins after it"
        )
    if valid_from < now + notice:
        raise StorageError(
            f"a key is announced at least {notice} ahead, so that it is everywhere before it counts: not before "
            f"{now + notice:%Y-%m-%d %H:%M:%S} UTC"
        )
