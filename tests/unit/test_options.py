from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from hypothesis import example, given
from hypothesis import strategies as st

from collectors.settings import CollectorSettings
from flows import options

SECRET = "correct-horse-battery-staple"
# No process is given half a surrogate pair.
TEXT = st.characters(exclude_categories=["Cs"])
ACCOUNT = {"username": "somebody", "password": "swordfish"}


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in CollectorSettings.model_fields:
        monkeypatch.delenv(f"SOULSEEK_RESEARCH_{name.upper()}", raising=False)
    monkeypatch.chdir(tmp_path)


@click.command()
@options.from_settings(CollectorSettings)
@click.option("--loud", is_flag=True)
def command(settings: CollectorSettings, loud: bool) -> None:
    click.echo(f"{settings.client_id} {settings.account_password()}{' LOUD' if loud else ''}")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


def complaint(**flags: Any) -> str:
    with pytest.raises(click.UsageError) as caught:
        options.read(CollectorSettings, flags)
    # It is raised from nothing: what pydantic says of the matter may quote what was given.
    assert caught.value.__suppress_context__
    return caught.value.message


def test_a_flag_goes_before_the_environment_and_that_before_dot_env(monkeypatch: pytest.MonkeyPatch) -> None:
    assert options.read(CollectorSettings, ACCOUNT).client_id == "local"
    Path(".env").write_text("SOULSEEK_RESEARCH_CLIENT_ID=dotted\nSOMETHING_ELSE=1\n")
    assert options.read(CollectorSettings, ACCOUNT).client_id == "dotted"
    monkeypatch.setenv("SOULSEEK_RESEARCH_CLIENT_ID", "surrounding")
    assert options.read(CollectorSettings, ACCOUNT).client_id == "surrounding"
    assert options.read(CollectorSettings, ACCOUNT | {"client_id": "flagged"}).client_id == "flagged"
    # A flag that was not given is no flag.
    assert options.read(CollectorSettings, ACCOUNT | {"client_id": None}).client_id == "surrounding"


def test_a_command_gets_settings_and_its_own_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOULSEEK_RESEARCH_USERNAME", "somebody")
    Path("password").write_text("swordfish \n")
    done = run("--client-id", "eu", "--password-file", "password", "--loud")
    assert (done.exit_code, done.stdout) == (0, "eu swordfish  LOUD\n")


def test_the_help_names_each_flag_its_variable_and_its_default() -> None:
    text = " ".join(run("--help").stdout.split())
    for name in CollectorSettings.model_fields:
        assert f"--{name.replace('_', '-')} " in text
        assert f"env: SOULSEEK_RESEARCH_{name.upper()}]" in text.replace("env: SOULSEEK_RESEARCH_ ", "")
    assert "[default: server.slsknet.org:2242; env: SOULSEEK_RESEARCH_SERVER]" in text


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"username": "x"}, "--password-file or --password is needed"),
        ({"password": "x"}, "--username is needed (or SOULSEEK_RESEARCH_USERNAME in the environment or .env)"),
        (ACCOUNT | {"client_id": "../x"}, "--client-id: use 1 to 64 letters, digits"),
        (ACCOUNT | {"server": "nowhere"}, "--server: write HOST:PORT"),
        (ACCOUNT | {"server": "nowhere:65536"}, "--server: write HOST:PORT"),
        (ACCOUNT | {"listen_port": "-1"}, "--listen-port: "),
        (ACCOUNT | {"silence_seconds": "soon"}, "--silence-seconds: "),
        (ACCOUNT | {"pseudonyms": "md5"}, "--pseudonyms: Input should be 'aes-siv' or 'hmac-sha256'"),
        ({"username": "x", "password_file": "missing"}, "the password file cannot be read: No such file"),
        ({"username": "x", "password_file": "."}, "the password file cannot be read: Is a directory"),
    ],
)
def test_a_complaint_names_the_flag(flags: dict[str, str], words: str) -> None:
    assert words in complaint(**flags)


def test_all_that_is_wrong_is_told_at_once() -> None:
    said = complaint(client_id="../x", server="nowhere")
    assert [words in said for words in ("--client-id: ", "--server: ", "--username is needed")] == [True] * 3
    assert "\n" not in said


def test_files_that_are_no_text_are_named() -> None:
    Path("password").write_bytes(b"\xff\xfe")
    assert complaint(username="x", password_file="password") == "the password file is not UTF-8 text: password"
    Path(".env").write_bytes(b"\xff\xfe")
    assert complaint(**ACCOUNT) == ".env cannot be read: it is not UTF-8 text"


@given(
    st.fixed_dictionaries({}, optional=dict.fromkeys(CollectorSettings.model_fields, st.text(TEXT, max_size=20))),
)
@example(ACCOUNT | {"data_dir": "~nobody-of-that-name"})
@example(ACCOUNT | {"data_dir": "\0"})
@example({"username": "x", "password_file": "\0"})
@example(ACCOUNT | {"silence_seconds": "nan"})
def test_whatever_is_given_is_taken_or_refused_and_no_secret_is_repeated(given: dict[str, str]) -> None:
    flags = given | {name: given[name] + SECRET for name in ("password", "database_url") if name in given}
    try:
        said = repr(options.read(CollectorSettings, flags))
    except click.UsageError as error:
        said = error.message
    assert SECRET not in said
