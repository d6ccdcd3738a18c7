"""`soulseek-research restore`."""

import asyncio

import click

from flows import options, parts
from flows.commands.archive import PLACE
from soulseek_research.storage import location
from soulseek_research.storage.archive.month import Month
from soulseek_research.storage.archive.settings import ArchiveSettings


@click.command(epilog="Example:  soulseek-research restore --month 2026-10")
@options.from_settings(ArchiveSettings, *PLACE)
@click.option("--month", metavar="YYYY-MM", required=True, help="Which month.")
@click.option("--drop", is_flag=True, help="The other way: drop what was restored of it; the archive stays.")
@click.option("--json", "as_json", is_flag=True, help="The result as JSON.")
def restore(settings: ArchiveSettings, month: str, drop: bool, as_json: bool) -> None:
    """Load an archived month back into the database, exactly as it was, behind the view `searches_all`.

    A file that was changed or cut short is refused. A restored month is never archived again.
    """
    from flows import archiving  # noqa: PLC0415 - `--help` needs no PyArrow

    wanted = Month.parse(month)
    work = archiving.drop_restored if drop else archiving.restore
    with location.found(settings) as database:
        done = asyncio.run(work(database, settings, wanted))
    parts.show(done, as_json=as_json)
