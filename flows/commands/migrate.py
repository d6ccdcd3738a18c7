"""`soulseek-research migrate`."""

import asyncio

import click

from flows import options
from soulseek_research.storage import location, migrations
from soulseek_research.storage.settings import StorageSettings


@click.command(epilog="Example:  soulseek-research migrate --database-url-file owner.url")
@options.from_settings(StorageSettings)
def migrate(settings: StorageSettings) -> None:
    """Bring the database up to date, as its owner. Safe to repeat, and when several start at once."""
    with location.found(settings) as database:
        applied = asyncio.run(_migrate(database))
    for name in applied:
        click.echo(f"applied {name}")
    click.echo("The database is up to date.")


async def _migrate(database: location.Location) -> list[str]:
    async with database.session() as connection:
        return await migrations.migrate(connection)
