"""`soulseek-research psql`."""

import os
import subprocess
import sys
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

import click

from flows import options
from soulseek_research.storage import address, location, postgres_binaries
from soulseek_research.storage.settings import StorageSettings


@click.command(
    context_settings={"ignore_unknown_options": True},
    epilog="Example:  soulseek-research psql -- -c 'SELECT * FROM coverage ORDER BY started_at DESC LIMIT 10'",
)
@options.from_settings(StorageSettings)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def psql(settings: StorageSettings, arguments: tuple[str, ...]) -> None:
    """Open the database in psql, which comes with the embedded PostgreSQL; ARGUMENTS go to psql."""
    with location.found(settings) as database:
        address.parse(database.dsn)
        url = urlsplit(database.dsn)
        parameters = dict(parse_qsl(url.query, keep_blank_values=True))
        password = unquote(url.password or "") or parameters.pop("password", "")
        login = url.netloc.replace(f":{url.password}@", "@", 1)
        url = url._replace(netloc=login, query=urlencode(parameters, quote_via=quote))
        # On the command line every user of the machine could read it.
        environment = dict(os.environ) | ({"PGPASSWORD": password} if password else {})
        program = postgres_binaries.find() / "bin" / "psql"
        code = subprocess.run([program, url.geturl(), *arguments], env=environment, check=False).returncode
    sys.exit(code)
