"""`soulseek-research backfill`."""

from typing import Any

import click

from flows import asking, options
from flows.commands.archive import PLACE, how, run
from soulseek_research.storage.archive.settings import ArchiveSettings


@click.command(epilog="Example:  soulseek-research backfill --from 2026-01 --to 2026-10")
@options.from_settings(ArchiveSettings, *PLACE)
@click.option("--from", "first", metavar="YYYY-MM", required=True, help="The first month.")
@click.option("--to", "last", metavar="YYYY-MM", required=True, help="The last month, included.")
@how
def backfill(settings: ArchiveSettings, first: str, last: str, **given: Any) -> None:
    """Archive a range of past months, going on past a month that fails and saying so at the end."""
    run(settings, asking.months(None, first, last), **given)
