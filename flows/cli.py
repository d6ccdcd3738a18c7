"""The command line: `soulseek-research COMMAND`."""

import importlib
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from flows.complaints import complaint

# Each command lives in a module of its own and is imported when it is asked for: `start` must not pay for Prefect, nor
# `--help` for PostgreSQL.
COMMANDS = {
    "start": "flows.commands.start:start",
    "status": "flows.commands.status:status",
    "archive": "flows.commands.archive:archive",
    "archives": "flows.commands.archives:archives",
    "restore": "flows.commands.restore:restore",
    "backfill": "flows.commands.backfill:backfill",
    "import": "flows.commands.import_:import_",
    "retain": "flows.commands.retain:retain",
    "simulate": "flows.commands.simulate:simulate",
    "demo": "flows.commands.demo:demo",
    "migrate": "flows.commands.migrate:migrate",
    "key": "flows.commands.key:key",
    "psql": "flows.commands.psql:psql",
    "refill": "flows.commands.refill:refill",
    "version": "flows.commands.version:version",
}


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports one when it is called or asked to explain itself."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """The commands, in the order in which a newcomer meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """The command of that name."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example:  soulseek-research demo",
)
def cli() -> None:
    """Study what people look for on the Soulseek network."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; whatever was asked wrongly ends in one clear line and a non-zero exit code."""
    try:
        code = cli.main(args=arguments, prog_name="soulseek-research", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        _fail(error, error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)  # as when the output goes to `head`
    except Exception as error:  # noqa: BLE001 - a traceback may hold what must not be shown
        _fail(error, 1)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(error: Exception, code: int) -> NoReturn:
    click.echo(f"soulseek-research: {complaint(error)}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
