"""`soulseek-research key …`: the pseudonym keys, and which counts when."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from collectors.keys import AES_SIV, SECRET_BYTES, Key, KeyRing
from collectors.settings import SpoolSettings
from flows import options, tables
from soulseek_research.storage import epochs, location
from soulseek_research.storage.epochs import KeyEpoch
from soulseek_research.storage.errors import StorageError
from soulseek_research.storage.settings import StorageSettings

AHEAD_DAYS = 7.0


@click.group(epilog="Example:  soulseek-research key show")
def key() -> None:
    """Make, show, carry and rotate the keys that pseudonyms are made with.

    One key serves all regions, or the same person would be two. It never belongs on the database's host.
    """


@key.command(epilog="Example:  soulseek-research key new")
@options.from_settings(SpoolSettings, "data_dir")
@click.option(
    "--algorithm",
    type=click.Choice(list(SECRET_BYTES)),
    default=AES_SIV,
    show_default=True,
    help="Whether who holds the key can reverse its pseudonyms (aes-siv) or nobody can (hmac-sha256).",
)
def new(settings: SpoolSettings, algorithm: str) -> None:
    """Make a key in this machine's key folder. It counts for nothing until it is registered."""
    ring = _ring(settings)
    made = ring.new(algorithm)
    click.echo(f"{made.key_id}  {algorithm}  fingerprint {made.fingerprint}")
    click.echo(
        f"It is in {ring.directory}. The first start of a collector registers it when it is the only one; "
        f"`soulseek-research key rotate --key {made.key_id}` announces it as the next.",
        err=True,
    )


@key.command(epilog="Example:  soulseek-research key show --json")
@options.from_settings(SpoolSettings, *StorageSettings.model_fields)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def show(settings: SpoolSettings, as_json: bool) -> None:
    """Show the keys of this machine and the epochs that the database knows. Never a key itself."""
    ring = _ring(settings)
    with location.found(settings) as database:
        registered = {one.key_id: one for one in asyncio.run(_known(database))}
    now = datetime.now(UTC)
    begun = [one for one in registered.values() if one.valid_from is None or one.valid_from <= now]
    in_force = begun[-1].key_id if begun else None
    rows: list[dict[str, Any]] = []
    for key_id in [*registered, *(held for held in ring.key_ids if held not in registered)]:
        epoch = registered.get(key_id)
        held = ring.get(key_id) if key_id in ring else None
        rows.append(
            {
                "key": key_id,
                "here": held is not None,
                "registered": epoch is not None,
                "in force": key_id == in_force,
                "counts from": ("the beginning" if epoch.valid_from is None else epoch.valid_from) if epoch else None,
                "algorithm": epoch.algorithm if epoch else held and held.algorithm,
                "fingerprint": epoch.fingerprint if epoch else held and held.fingerprint,
            }
        )
    tables.show(rows, as_json=as_json, empty="There is no key yet; the first start of a collector makes one.")


@key.command(epilog="Example:  soulseek-research key export abcd2345 > key.txt   (chmod 600)")
@options.from_settings(SpoolSettings, "data_dir")
@click.argument("key_id")
def export(settings: SpoolSettings, key_id: str) -> None:
    """Print a key as one line, to be imported where another collector runs. Whoever has it can reverse pseudonyms."""
    click.echo(_ring(settings).export_text(key_id))


@key.command("import", epilog="Example:  soulseek-research key import key.txt")
@options.from_settings(SpoolSettings, "data_dir")
@click.argument("file", type=click.File("r", encoding="utf-8"), default="-")
def import_(settings: SpoolSettings, file: Any) -> None:
    """Take a key that was exported elsewhere, from FILE or from standard input."""
    if file.isatty():
        click.echo("Paste the exported key, then Enter and Ctrl-D:", err=True)
    try:
        text = file.read()
    except UnicodeDecodeError:
        text = ""  # no exported key, as the key ring will say
    taken = _ring(settings).import_text(text)
    click.echo(f"{taken.key_id} is here.")


@key.command(epilog="Example:  soulseek-research key rotate --at 2027-01-01T00:00Z")
@options.from_settings(SpoolSettings, *StorageSettings.model_fields)
@click.option(
    "--at", "moment", help=f"When it takes over, ISO 8601 with a time zone; in {AHEAD_DAYS:.0f} days if left out."
)
@click.option("--key", "key_id", help="A key that is here; a new one is made if left out.")
@click.option("--algorithm", type=click.Choice(list(SECRET_BYTES)), default=AES_SIV, help="Of a new key.")
def rotate(settings: SpoolSettings, moment: str | None, key_id: str | None, algorithm: str) -> None:
    """Announce the next key, as the owner of the database, so that it can be brought everywhere before it counts.

    Without any registered key, the one named is registered as the first.
    """
    begins = _moment(moment)
    ring = _ring(settings)
    taken = ring.get(key_id) if key_id else ring.new(algorithm)
    try:
        with location.found(settings) as database:
            first = asyncio.run(_announce(database, taken, begins))
    except StorageError:
        # Only where the database surely knows nothing of it: a connection that is lost may have announced it first.
        if key_id is None:
            ring.discard(taken.key_id)
        raise
    if first:
        click.echo(f"{taken.key_id} is registered as the first key.")
        return
    click.echo(f"{taken.key_id} takes over at {begins:%Y-%m-%d %H:%M:%SZ}.")
    click.echo(
        f"Until then bring it to every collector: `soulseek-research key export {taken.key_id}` here, "
        "`soulseek-research key import` there. One that lacks it stops listening when it takes over.",
        err=True,
    )


def _moment(text: str | None) -> datetime:
    if text is None:
        return datetime.now(UTC) + timedelta(days=AHEAD_DAYS)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise click.UsageError(f"--at: write a time as 2027-01-01T00:00Z, not {text!r}") from None
    if moment.tzinfo is None:
        raise click.UsageError("--at: say in which time zone, as in 2027-01-01T00:00Z")
    return moment


async def _announce(database: location.Location, taken: Key, begins: datetime) -> bool:
    """Announce a key, and tell whether it is the first."""
    await database.prepare()
    async with database.session() as connection:
        if await epochs.register_first(connection, taken.key_id, taken.fingerprint, taken.algorithm):
            return True
        await epochs.announce(connection, taken.key_id, taken.fingerprint, taken.algorithm, begins)
        return False


async def _known(database: location.Location) -> list[KeyEpoch]:
    await database.prepare()
    async with database.session() as connection:
        return await epochs.known(connection)


def _ring(settings: SpoolSettings) -> KeyRing:
    return KeyRing(settings.keys_dir)
