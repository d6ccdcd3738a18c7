"""`soulseek-research refill`."""

import asyncio
import functools
import json

import click

from collectors.errors import CollectorError
from collectors.settings import SpoolSettings
from collectors.spool import Spool
from collectors.writer import Writer
from flows import options
from soulseek_research.storage import location
from soulseek_research.storage.database import Role
from soulseek_research.storage.errors import StorageError

PATIENCE_SECONDS = 6 * 3600.0


@click.command(epilog="Example:  soulseek-research refill --client-id eu --database-url-file restored.url")
@options.from_settings(SpoolSettings)
@click.option("--all", "everything", is_flag=True, help="Also what another database has acknowledged.")
@click.option("--json", "as_json", is_flag=True, help="The result as JSON.")
def refill(settings: SpoolSettings, everything: bool, as_json: bool) -> None:
    """Send the database what it lacks of a stopped collector's spool: after it was restored from a backup, say.

    What was committed stays in the spool for a day. A running collector does this by itself when it reconnects, except
    for what another database has acknowledged.
    """
    if not settings.spool_path.exists():
        raise CollectorError(f"there is no spool at {settings.spool_path}: give the --client-id and --data-dir it had")
    with location.found(settings) as database, Spool(settings.spool_path, settings.spool_max_bytes):
        searches = asyncio.run(_refill(settings, database, everything=everything))
    if as_json:
        click.echo(json.dumps({"client_id": settings.client_id, "sent": searches}))
    else:
        click.echo(f"{searches:,} searches that the database lacked were sent to it.")


async def _refill(settings: SpoolSettings, database: location.Location, *, everything: bool) -> int:
    await database.prepare()
    writer = Writer(
        functools.partial(database.connect, Role.COLLECTOR),
        settings.client_id,
        settings.spool_path,
        first_segment=None,
        new_segment=_nothing,
        resend_all=everything,
    )
    writing = asyncio.create_task(writer.run())
    while not (writer.state.connected or writer.state.error or writing.done()):  # noqa: ASYNC110 - once, at the start
        await asyncio.sleep(0.02)
    if writer.state.error:
        raise StorageError(writer.state.error)
    await writer.close(PATIENCE_SECONDS)
    await writing
    return writer.state.rows


async def _nothing() -> None:
    """Nobody appends, so a new claim needs no new segment."""
