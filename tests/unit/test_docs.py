"""What is written for people cannot rot: every command and every variable stands there, and nothing that is not."""

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from collectors.settings import CollectorSettings
from flows import cli

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command by its name, `key new` as well."""
    for name, place in cli.COMMANDS.items():
        module, _, attribute = place.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        yield name, command
        if isinstance(command, click.Group):
            yield from ((f"{name} {one}", command.commands[one]) for one in command.commands)


NAMED = dict(commands())


@pytest.mark.parametrize("name", [name for name, command in NAMED.items() if not isinstance(command, click.Group)])
def test_a_command_stands_in_the_readme(name: str) -> None:
    first, _, last = name.rpartition(" ")
    rows = [line for line in README.splitlines() if line.startswith(f"| `{first or last}")]
    assert any(f"`{last}`" in row or f"`{name}`" in row for row in rows)


@pytest.mark.parametrize("name", NAMED)
def test_a_command_explains_itself_with_an_example(name: str) -> None:
    command = NAMED[name]
    assert command.help
    example = re.match(rf"Example:  soulseek-research {name}\b", command.epilog or "")
    assert example, command.epilog
    for option in (one for one in command.params if isinstance(one, click.Option) and one.name != "help"):
        assert option.help, option.name


def test_the_readme_names_no_command_that_is_not_there() -> None:
    used = set(re.findall(r"soulseek-research (?!\()([a-z]+)\b", README)) - {"role"}
    assert used <= set(cli.COMMANDS)


def test_the_example_of_an_environment_names_only_what_is_read() -> None:
    named = re.findall(r"\bSOULSEEK_RESEARCH_([A-Z_]+)=", (ROOT / ".env.example").read_text())
    assert len(named) > 5
    assert {one.lower() for one in named} <= set(CollectorSettings.model_fields)
