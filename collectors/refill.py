"""Fills a database up again from the spool: after a restored backup, or because it is another one."""

from pathlib import Path

from collectors.claim import Connect
from collectors.spool import Spool
from collectors.writer import Writer
from soulseek_research.storage.errors import StorageError


async def refill(connect: Connect, client_id: str, spool_path: Path, *, other_databases: bool = False) -> int:
    """Sends all that the spool still holds and the database does not have; for when the collector does not run.

    A running collector does the same by itself whenever it connects, except for `other_databases`.

    Args:
        connect: makes connections to the database.
        client_id: the collector's.
        spool_path: its spool.
        other_databases: also send what another database has taken, which this one would otherwise never get.

    Returns:
        How many searches were stored.

    Raises:
        AlreadyClaimed: the collector is running.
        SpoolError: the spool is not there, or in use.
        StorageError: the database cannot be used.
    """

    async def no_new_segment() -> None:
        return

    with Spool(spool_path) as spool:
        writer = Writer(
            connect,
            client_id,
            spool.path,
            first_segment=None,
            new_segment=no_new_segment,
            resend_all=other_databases,
        )
        await writer.close(0)
        await writer.run()
    if writer.state.error is not None:
        raise StorageError(writer.state.error)
    return writer.state.rows
