"""What is written for people cannot rot: every command and every variable stands there, and nothing that is not."""

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml

from collectors.settings import CollectorSettings
from flows import cli
from soulseek_research.storage.archive.sealing import PATIENCE
from soulseek_research.storage.archive.settings import ArchiveSettings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
DEPLOYMENTS = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]


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
    read = CollectorSettings.model_fields | ArchiveSettings.model_fields
    assert {one.lower() for one in named} <= set(read)
    assert set(ArchiveSettings.model_fields) <= {one.lower() for one in named}
    assert {"USERNAME", "PASSWORD_FILE", "CLIENT_ID"} <= set(named)


def test_what_is_deployed_is_named_as_prefect_knows_it() -> None:
    # With an entrypoint that is a module, `deploy` finds a deployment by its own name alone, not as FLOW/NAME.
    text = README + (ROOT / "deployments" / "README.md").read_text()
    named = re.findall(r"(?<= -n )\S+", "\n".join(re.findall(r"^\$ prefect .*deploy .*", text, re.MULTILINE)))
    assert {"eu", "asia", "monthly", "backfill", "restore"} == set(named)
    assert set(named) - {"asia"} <= {one["name"] for one in DEPLOYMENTS}


def test_the_monthly_run_comes_again_when_no_month_waits_any_longer() -> None:
    (timetable,) = next(one["schedules"] for one in DEPLOYMENTS if one["name"] == "monthly")
    days = [int(day) for day in timetable["cron"].split()[2].split(",")]
    assert min(days) == 3
    assert (max(days) - 1) >= PATIENCE.days
    for text in (README, (ROOT / "deployments" / "README.md").read_text(), (ROOT / "CHANGELOG.md").read_text()):
        assert all(f"{day}rd" in text or f"{day}th" in text for day in days)
