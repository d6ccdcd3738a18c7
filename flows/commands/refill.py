"""`soulseek-research refill`."""


import click

from collectors.settings import CollectorSettings
from flows import options


@click.command(epilog="Example:  soulseek-research refill --client-id eu")
@options.from_settings(CollectorSettings, "client_id", "data_dir", "database_url", "database_url_file")
@click.option("--all", "everything", is_flag=True, help="Also what another database has acknowledged.")
def refill(settings: CollectorSettings, everything: bool) -> None:
    """Send the database what it lacks of a stopped collector's spool: after it was restored from a backup, say.

    What was committed stays in the spool for a day. A running collector does the same by itself when it reconnects.
    """
