"""`soulseek-research archives …`: the catalogue of what is archived."""

import asyncio
from typing import Any

import click

from flows import options, parts, tables
from flows.commands.archive import PLACE
from soulseek_research.storage import location
from soulseek_research.storage.archive.settings import ArchiveSettings


@click.group(invoke_without_command=True, epilog="Example:  soulseek-research archives --verify")
@options.from_settings(ArchiveSettings, *PLACE)
@click.option("--verify", is_flag=True, help="Read every file again and compare it with the catalogue.")
@click.option("--json", "as_json", is_flag=True, help="As JSON, with everything that is known.")
def archives(settings: ArchiveSettings, verify: bool, as_json: bool) -> None:
    """List the archived months, part by part, and those on the way there."""
    if click.get_current_context().invoked_subcommand is not None:
        return
    if verify:
        _verify(settings, as_json=as_json)
        return
    from flows import archiving  # noqa: PLC0415 - `--help` needs no PyArrow

    with location.found(settings) as database:
        known = asyncio.run(archiving.known_parts(database))
    parts.show(known, as_json=as_json, empty="Nothing is archived yet: see `soulseek-research archive --dry-run`.")


def _verify(settings: ArchiveSettings, *, as_json: bool) -> None:
    from flows import archiving  # noqa: PLC0415 - as above

    with location.found(settings) as database:
        checked = asyncio.run(archiving.check_all(database, settings))
    rows: list[dict[str, Any]] = [
        {"month": str(part.month), "part": part.number, "place": place, "sound": problem is None, "problem": problem}
        for part, place, problem in checked
    ]
    tables.show(rows, as_json=as_json, empty="Nothing is archived yet.")
    unsound = sum(not row["sound"] for row in rows)
    if unsound:
        raise click.ClickException(f"{unsound} of {len(rows)} files are not as they should be")


@archives.command(epilog="Example:  soulseek-research archives adopt --archive /srv/archives")
@options.from_settings(ArchiveSettings, *PLACE)
@click.option("--json", "as_json", is_flag=True, help="The result as JSON.")
def adopt(settings: ArchiveSettings, as_json: bool) -> None:
    """Rebuild the catalogue from the manifests that lie beside the files, when the database was lost.

    Each file is read whole first. What the catalogue knows already stays as it is.
    """
    from flows import archiving  # noqa: PLC0415 - `--help` needs no PyArrow

    with location.found(settings) as database:
        adoption = asyncio.run(archiving.adopt(database, settings))
    rows = [{"archive": part.name, "adopted": True, "why not": None} for part in adoption.adopted]
    rows += [{"archive": part.name, "adopted": False, "why not": "it is in the catalogue"} for part in adoption.known]
    rows += [{"archive": one.where, "adopted": False, "why not": one.reason} for one in adoption.refused]
    tables.show(rows, as_json=as_json, empty="No manifest was found there.")
    if adoption.refused:
        raise click.ClickException(f"{len(adoption.refused)} archives were found that are not adopted")
