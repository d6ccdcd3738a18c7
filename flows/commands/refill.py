"""`soulseek-research refill`."""

import asyncio
import functools
import json

import click

from collectors import refill as spool_refill
from collectors.errors import CollectorError
from collectors.settings import SpoolSettings
from flows import options
from soulseek_research.storage import location
from soulseek_research.storage.database import Role


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
    with location.found(settings) as database:
        searches = asyncio.run(_refill(settings, database, everything=everything))
    if as_json:
        click.echo(json.dumps({"client_id": settings.client_id, "sent": searches}))
    else:
        click.echo(f"{searches:,} searches that the database lacked were sent to it.")


async def _refill(settings: SpoolSettings, database: location.Location, *, everything: bool) -> int:
    await database.prepare()
    connect = functools.partial(database.connect, Role.COLLECTOR)
    return await spool_refill.refill(connect, settings.client_id, settings.spool_path, other_databases=everything)
