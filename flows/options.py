"""Command-line options made from settings: a flag, an environment variable and a line in `.env` are one thing."""

import functools
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import pydantic
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

SettingsT = TypeVar("SettingsT", bound=BaseSettings)
Command = Callable[..., Any]


def from_settings(model: type[SettingsT], *names: str) -> Callable[[Command], Command]:
    """Give a command a flag for each named field of `model` (all when none is named), and the settings as its argument.

    The command is called with `settings=`, a `model` read from the flags, then the environment, then `.env`.

    Raises:
        click.UsageError: when running the command, for a value that is missing or wrong; it names the flag.
    """
    fields = names or tuple(model.model_fields)

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def run(**arguments: Any) -> Any:
            flags = {name: arguments.pop(name) for name in fields}
            return command(settings=read(model, flags), **arguments)

        with_options: Command = run
        for name in reversed(fields):
            with_options = _option(model, name)(with_options)
        return with_options

    return decorate


def read(model: type[SettingsT], flags: dict[str, Any]) -> SettingsT:
    """Read `model`, the flags that were given going before the environment and `.env`."""
    try:
        return model(**{name: value for name, value in flags.items() if value is not None})
    except pydantic.ValidationError as error:
        raise click.UsageError("; ".join(_explain(model, problem, flags) for problem in error.errors())) from None
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{model.model_config.get('env_file')} cannot be read: {_reason(error)}") from None


def _option(model: type[BaseSettings], name: str) -> Callable[[Command], Command]:
    field = model.model_fields[name]
    kind = _plain_type(field.annotation)
    default = "" if field.default in (None, "", PydanticUndefined) else f"default: {field.default}; "
    text = f"{field.description or ''}  [{default}env: {_variable(model, name)}]".strip()
    if kind is bool:
        return click.option(f"--{_dashed(name)}/--no-{_dashed(name)}", name, default=None, help=text)
    metavar = "FILE" if name.endswith("_file") else "DIR" if kind is Path else name.rpartition("_")[2].upper()
    return click.option(f"--{_dashed(name)}", name, type=str, default=None, metavar=metavar, help=text)


def _plain_type(annotation: Any) -> Any:
    """The type behind `X | None`."""
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        return next(part for part in typing.get_args(annotation) if part is not type(None))
    return annotation


def _explain(model: type[BaseSettings], problem: Any, flags: dict[str, Any]) -> str:
    """One problem as a person would say it. Never the value that was given: it may be a secret."""
    name = str(problem["loc"][0]) if problem["loc"] else ""
    if name not in model.model_fields:
        return str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "missing":
        return f"--{_dashed(name)} is needed (or {_variable(model, name)} in the environment or .env)"
    named = f"--{_dashed(name)}" if name in flags else _variable(model, name)
    return f"{named}: {str(problem['msg']).removeprefix('Value error, ')}"


def _variable(model: type[BaseSettings], name: str) -> str:
    return f"{model.model_config.get('env_prefix', '')}{name}".upper()


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else "it is not UTF-8 text"


def _dashed(name: str) -> str:
    return name.replace("_", "-")
