"""`soulseek-research archive`."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import click

from flows import asking, options, parts, tables
from soulseek_research.storage import location
from soulseek_research.storage.archive.month import Month
from soulseek_research.storage.archive.settings import ArchiveSettings, Format

PLACE = ("database_url", "database_url_file", "data_dir", "archive")


def how(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the flags that say how months are archived."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="The result as JSON."),
        click.option("--dry-run", is_flag=True, help="Only say what would be done, and why not."),
        click.option(
            "--format",
            "archive_format",
            type=click.Choice([one.value for one in Format]),
            help="How the files are written.  [default: parquet; env: SOULSEEK_RESEARCH_ARCHIVE_FORMAT]",
        ),
        click.option("--keep", is_flag=True, help="Leave the sealed tables in the database whatever retention says."),
    ):
        command = option(command)
    return command


@click.command(epilog="Example:  soulseek-research archive --month 2026-10 --archive s3://research/soulseek")
@options.from_settings(ArchiveSettings, *PLACE)
@click.option("--month", metavar="YYYY-MM", help="This month; every month that is due if left out.")
@click.option("--from", "first", metavar="YYYY-MM", help="The first of a range of months.")
@click.option("--to", "last", metavar="YYYY-MM", help="The last of a range of months, included.")
@how
def archive(settings: ArchiveSettings, month: str | None, first: str | None, last: str | None, **given: Any) -> None:
    """Archive months that are over: seal, export, verify, record, and drop what retention does not keep.

    Whatever ends it, nothing is lost, and the next time it goes on where it was.
    """
    run(settings, asking.months(month, first, last), **given)


def run(
    settings: ArchiveSettings,
    asked: Sequence[Month] | None,
    *,
    keep: bool,
    archive_format: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Archive the months, or say what would be done, and show it.

    Raises:
        click.ClickException: A month failed; the others were archived all the same.
    """
    from flows import archiving, months  # noqa: PLC0415 - `--help` needs no PyArrow

    if archive_format is not None:
        settings = settings.model_copy(update={"archive_format": Format(archive_format)})
    with location.found(settings) as database:
        if dry_run:
            lines = asyncio.run(archiving.plan(database, asked, keep=keep))
            tables.show(lines, as_json=as_json, empty="No month is due.")
            return
        result = asyncio.run(archiving.archive(database, settings, asked, keep=keep))
    if as_json or result.parts or not (result.waiting or result.failed):
        parts.show(result.parts, as_json=as_json, empty="There is nothing to archive.")
    for one, reason in result.waiting.items():
        click.echo(months.say(one, reason), err=True)
    if result.failed:
        raise click.ClickException("; ".join(months.say(*one) for one in result.failed.items()))
