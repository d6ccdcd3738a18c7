"""`soulseek-research import`."""

import asyncio
import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import click

from collectors import cleaning
from flows import options, tables
from soulseek_research.storage import location
from soulseek_research.storage.archive import predecessor, predecessor_database
from soulseek_research.storage.archive.predecessor import KEY_ID, Imported
from soulseek_research.storage.archive.predecessor_database import TABLE, PredecessorSettings
from soulseek_research.storage.settings import StorageSettings


@click.command(
    "import",
    epilog="Example:  soulseek-research import --from-url-file old.url   "
    "or, of a COPY searches TO … CSV HEADER:  soulseek-research import --from-csv searches.csv.gz",
)
@options.from_settings(PredecessorSettings, *StorageSettings.model_fields, "from_url_file")
@click.option(
    "--from-csv", "csv", type=click.Path(path_type=Path), metavar="FILE", help="A CSV of its table, also .gz or .zst."
)
@click.option("--table", default=TABLE, show_default=True, help="The predecessor's table, when it is read by URL.")
@click.option("--key-id", default=KEY_ID, show_default=True, help="What stands before each pseudonym from there.")
@click.option("--source-name", help="What these searches are known by, so that nothing is imported twice.")
@click.option("--json", "as_json", is_flag=True, help="The result as JSON.")
def import_(settings: PredecessorSettings, csv: Path | None, as_json: bool, **how: Any) -> None:
    """Take over the searches that the predecessor kept, month by month, ready to be archived.

    From its table `searches` (id, client_id, timestamp, username as SHA-256 in hex, query) or from a CSV of it. They
    come without tickets, with the source 0 ("not known"). An import that was interrupted goes on where it was. A month
    that still goes on is left out.
    """
    url = settings.from_dsn()
    if (url is None) == (csv is None):
        raise click.UsageError("say where from: --from-url-file FILE or --from-csv FILE")
    with location.found(settings) as database:
        imported = asyncio.run(_import(database, settings, url, csv, **how))
    if as_json:
        tables.show([_document(imported)], as_json=True)
    else:
        _show(imported)


async def _import(
    database: location.Location,
    settings: PredecessorSettings,
    url: str | None,
    csv: Path | None,
    *,
    table: str,
    key_id: str,
    source_name: str | None,
) -> Imported:
    from flows import progress_bars  # noqa: PLC0415 - `--help` needs none of these
    from soulseek_research.storage.archive import predecessor_csv  # noqa: PLC0415

    await database.prepare()
    async with contextlib.AsyncExitStack() as stack:
        if csv is not None:
            source = stack.enter_context(predecessor_csv.opened(csv, settings.data_dir))
        else:
            assert url is not None
            source = await stack.enter_async_context(predecessor_database.opened(url, table))
        display = stack.enter_context(progress_bars.shown())
        return await predecessor.import_searches(
            database,
            source,
            clean=cleaning.clean,
            key_id=key_id,
            source_name=source_name,
            report=display.of(source.name),
        )


def _document(imported: Imported) -> dict[str, Any]:
    months = [dataclasses.asdict(one) | {"month": str(one.month)} for one in imported.months]
    not_over = {str(month): rows for month, rows in imported.not_over.items()}
    return dataclasses.asdict(imported) | {"months": months, "not_over": not_over}


def _show(imported: Imported) -> None:
    months = [
        {
            "month": str(one.month),
            "part": one.part,
            "rows": one.rows,
            "imported": "before" if one.already else "now" if one.part else "no row of it can be taken",
        }
        for one in imported.months
    ]
    click.echo(imported.source)
    tables.show(months, empty="There is no finished month to import.")
    if imported.left_behind:
        left = [{"why": reason, "rows": rows} for reason, rows in sorted(imported.left_behind.items())]
        tables.show(left, title="\nWhat could not be taken")
    for month, rows in imported.not_over.items():
        click.echo(f"{month} is not over: its {rows:,} rows are left for an import after its end", err=True)
