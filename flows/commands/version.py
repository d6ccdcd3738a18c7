"""`soulseek-research version`."""

import importlib.metadata
import json
import platform

import click


@click.command(epilog="Example:  soulseek-research version --json")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def version(as_json: bool) -> None:
    """Say which versions are installed."""
    versions = {"soulseek-research": importlib.metadata.version("soulseek-research")}
    versions |= {name: importlib.metadata.version(name) for name in ("aioslsk", "asyncpg", "prefect", "polars")}
    versions["python"] = platform.python_version()
    if as_json:
        click.echo(json.dumps(versions))
    else:
        for name, number in versions.items():
            click.echo(f"{name:18} {number}")
