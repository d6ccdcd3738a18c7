"""Where the data is, as told by environment variables and `.env` (prefix `SOULSEEK_RESEARCH_`)."""

from pathlib import Path

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from soulseek_research.storage import embedded
from soulseek_research.storage.errors import StorageError


class StorageSettings(BaseSettings):
    """Which database, and which folder for all that is kept beside it."""

    model_config = SettingsConfigDict(
        env_prefix="SOULSEEK_RESEARCH_",
        env_file=".env",
        # An example file that was copied and left half empty sets nothing.
        env_ignore_empty=True,
        extra="ignore",
        # A mistyped secret is not to be quoted in an error.
        hide_input_in_errors=True,
        validate_default=True,
    )

    database_url: SecretStr | None = Field(
        None,
        description="PostgreSQL, as postgresql://USER:PASSWORD@HOST/DATABASE; without it the embedded one is used.",
    )
    database_url_file: Path | None = Field(None, description="A file that holds the database URL.")
    data_dir: Path = Field(
        default_factory=lambda: embedded.default_data_dir().parent,
        description="The folder of the spool, the keys and the embedded PostgreSQL.",
    )

    @field_validator("data_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        try:
            return value.expanduser().absolute()
        except RuntimeError:
            raise ValueError("there is no such user's home") from None

    def dsn(self) -> str | None:
        """Return the database URL, from wherever it was given; None means the embedded PostgreSQL.

        Raises:
            StorageError: It is given twice, or its file cannot be read or is empty.
        """
        if self.database_url_file is None:
            return self.database_url.get_secret_value() if self.database_url is not None else None
        if self.database_url is not None:
            raise StorageError("give the database URL or a file that holds it, not both")
        try:
            text = self.database_url_file.expanduser().read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise StorageError(
                f"the file of the database URL cannot be read: {self.database_url_file}: {reason}"
            ) from None
        if not text:
            raise StorageError(f"the file of the database URL is empty: {self.database_url_file}")
        return text
