"""`soulseek-research retain`."""

import asyncio
import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import Any

import click

from flows import options, tables
from soulseek_research.storage import location
from soulseek_research.storage.archive.settings import ArchiveSettings

NEVER = "never"
MOST_MONTHS = 12_000


def _months(_: click.Context, __: click.Parameter, value: str | None) -> int | str | None:
    """A number of months, or `never`."""
    if value is None or value == NEVER:
        return value
    if not value.isdecimal() or not 1 <= int(value) <= MOST_MONTHS:
        raise click.BadParameter(f"write a number of months, 1 or more, or {NEVER}")
    return int(value)


@click.command(epilog="Example:  soulseek-research retain --usernames-months 24 --dry-run")
@options.from_settings(ArchiveSettings, "database_url", "database_url_file", "data_dir", "archive")
@click.option(
    "--queryable-months",
    type=click.IntRange(0, MOST_MONTHS),
    metavar="N",
    help="From now on, keep the tables of so many finished months.",
)
@click.option(
    "--usernames-months",
    callback=_months,
    metavar="N|never",
    help="From now on, archives lose their usernames after N.",
)
@click.option(
    "--archive-months", callback=_months, metavar="N|never", help="From now on, archives are deleted after N."
)
@click.option("--dry-run", is_flag=True, help="Change nothing; say what would be done.")
@click.option("--yes", is_flag=True, help="Delete archives and usernames without asking.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def retain(settings: ArchiveSettings, dry_run: bool, yes: bool, as_json: bool, **changes: Any) -> None:
    """Show how long what is kept, change it when asked to, and carry it out.

    Tables of archived months that are old enough are dropped, once their files have been read again and found right.
    Archives lose their usernames, or are deleted, only by this command, and only when that has been set: by default
    never. What such a month still has in the database, restored say, goes with them. An age is counted in finished
    months that are newer.
    """
    asked = {name: None if value == NEVER else value for name, value in changes.items() if value is not None}
    with location.found(settings) as database:
        work, policy, actions = asyncio.run(_plan(database, settings, asked))
        if not as_json:
            _show_policy(policy)
        if dry_run:
            _show(policy, actions, ["would be done"] * len(actions), as_json=as_json)
            return
        final = sum(action.final for action in actions)
        if final and not yes and not _agreed(policy, actions, final, as_json=as_json):
            raise click.ClickException("nothing was changed")
        results = asyncio.run(_carry_out(work, policy if asked else None, actions))
    _show(policy, actions, results, as_json=as_json)
    if any(result != "done" for result in results):
        sys.exit(1)


async def _plan(database: location.Location, settings: ArchiveSettings, asked: dict[str, Any]) -> tuple[Any, Any, Any]:
    """What the steps are given, the policy as it will be, and what it asks for."""
    from soulseek_research.storage.archive import retention, work  # noqa: PLC0415 - `--help` needs no PyArrow
    from soulseek_research.storage.database import Role  # noqa: PLC0415

    await database.prepare()
    async with database.session(Role.ARCHIVIST) as connection:
        policy = dataclasses.replace(await retention.policy(connection), **asked)
    policy.check()
    all_of_it = await asyncio.to_thread(work.work, database, settings)
    return all_of_it, policy, await retention.plan(all_of_it, policy)


async def _carry_out(work: Any, policy: Any, actions: Sequence[Any]) -> list[str]:
    """Put the policy in force, and do all that can be done: what became of each action."""
    from flows import progress_bars  # noqa: PLC0415 - as above
    from flows.complaints import complaint  # noqa: PLC0415
    from soulseek_research.storage.archive import retention  # noqa: PLC0415
    from soulseek_research.storage.database import Role  # noqa: PLC0415

    if policy is not None:
        async with work.database.session(Role.ARCHIVIST) as connection:
            await retention.set_policy(connection, policy)
    results = []
    with progress_bars.shown() as display:
        for action in actions:
            try:
                await retention.apply(dataclasses.replace(work, report=display.of(action.part.name)), action)
            except Exception as error:  # noqa: BLE001 - the others do not wait for this one
                results.append(complaint(error))
            else:
                results.append("done")
    return results


def _agreed(policy: Any, actions: Sequence[Any], final: int, *, as_json: bool) -> bool:
    if as_json or not _is_asked():
        raise click.UsageError("usernames or archives would be gone for good: look at it with --dry-run, and say --yes")
    _show(policy, actions, ["to be done"] * len(actions), as_json=False)
    return click.confirm(f"This destroys what is nowhere else ({final} of {len(actions)}). Go on?")


def _show_policy(policy: Any) -> None:
    click.echo(
        f"Tables stay for {policy.queryable_months} finished month{'' if policy.queryable_months == 1 else 's'}."
    )
    for what, months in (("Usernames in archives", policy.usernames_months), ("Archives", policy.archive_months)):
        click.echo(f"{what} stay " + ("for ever." if months is None else f"for {months} finished months."))


def _show(policy: Any, actions: Sequence[Any], results: Sequence[str], *, as_json: bool) -> None:
    from flows.pace import size  # noqa: PLC0415 - as above

    rows = [
        {
            "month": str(action.part.month),
            "part": action.part.number,
            "what": action.what.value,
            "why": action.why,
            "bytes": action.bytes,
            "result": result,
        }
        for action, result in zip(actions, results, strict=True)
    ]
    if as_json:
        click.echo(json.dumps({"policy": dataclasses.asdict(policy), "actions": rows}, indent=2))
    else:
        tables.show([row | {"bytes": size(row["bytes"])} for row in rows], empty="There is nothing to do.")


def _is_asked() -> bool:
    """Whether somebody is there to answer."""
    return sys.stdin.isatty()
