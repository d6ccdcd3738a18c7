"""What a collector is told: flags, environment variables and `.env` lines alike (prefix `SOULSEEK_RESEARCH_`)."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr, model_validator

from soulseek_research.storage.settings import StorageSettings

OFFICIAL_SERVER = "server.slsknet.org:2242"
GIBIBYTE = 1024**3

# It names a spool file, a row in the database and a flow run, so it is kept to what all three take.
CLIENT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def _client_id(value: str) -> str:
    if not CLIENT_ID.fullmatch(value):
        raise ValueError("use 1 to 64 letters, digits, dots, dashes and underscores, beginning with a letter or digit")
    return value


def _host_and_port(value: str) -> str:
    host, colon, port = value.rpartition(":")
    if not (colon and host and port.isdecimal() and 0 < int(port) < 65536):
        raise ValueError("write HOST:PORT, as in server.slsknet.org:2242")
    return value


class SpoolSettings(StorageSettings):
    """Whose spool, and where it is with its keys."""

    client_id: Annotated[str, AfterValidator(_client_id)] = Field(
        "local", description="Names this place of listening, for ever: a region, say."
    )
    spool_max_bytes: int = Field(
        8 * GIBIBYTE, ge=1024**2, description="How large the spool may grow while the database is away, in bytes."
    )

    @property
    def spool_path(self) -> Path:
        """The spool of this client id."""
        return self.data_dir / "spool" / f"{self.client_id}.sqlite"

    @property
    def keys_dir(self) -> Path:
        """Where the pseudonym keys are kept."""
        return self.data_dir / "keys"


class CollectorSettings(SpoolSettings):
    """Settings of one collector."""

    username: str = Field(min_length=1, description="The Soulseek account to listen with.")
    password: SecretStr | None = Field(None, description="Its password; better from the environment or a file.")
    password_file: Path | None = Field(None, description="A file that holds the password.")
    server: Annotated[str, AfterValidator(_host_and_port)] = Field(
        OFFICIAL_SERVER, description="The Soulseek server, as HOST:PORT."
    )
    listen_port: int = Field(
        0, ge=0, lt=65536, description="A port on which other clients may reach this one; 0 for none."
    )
    pseudonyms: Literal["aes-siv", "hmac-sha256"] = Field(
        "aes-siv",
        description="How a first key hides names: aes-siv (the key holder can reverse it) or hmac-sha256 (nobody can).",
    )
    silence_seconds: float = Field(
        120.0, gt=0, description="After how long without a single search to begin again with a fresh connection."
    )
    drain_seconds: float = Field(20.0, ge=0, description="How long a stop may take to bring the spool to the database.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="How much to say.")

    @model_validator(mode="after")
    def _needs_a_password(self) -> "CollectorSettings":
        self.account_password()
        return self

    def account_password(self) -> str:
        """The account's password, from wherever it was given.

        Raises:
            ValueError: there is none, or its file cannot be read.
        """
        if self.password is not None:
            return self.password.get_secret_value()
        if self.password_file is None:
            raise ValueError(
                "--password-file or --password is needed (or SOULSEEK_RESEARCH_PASSWORD in the environment)"
            )
        try:
            return self.password_file.read_text(encoding="utf-8").rstrip("\r\n")
        except OSError as error:
            raise ValueError(f"the password file cannot be read: {error.strerror}: {self.password_file}") from None
        except UnicodeDecodeError:
            raise ValueError(f"the password file is not UTF-8 text: {self.password_file}") from None

    @property
    def server_address(self) -> tuple[str, int]:
        """Host and port of the Soulseek server."""
        host, _, port = self.server.rpartition(":")
        return host.strip("[]"), int(port)
