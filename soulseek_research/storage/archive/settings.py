"""Where archives go and in what format, as told by environment variables and `.env`."""

from enum import StrEnum

from pydantic import Field

from soulseek_research.storage.settings import StorageSettings


class Format(StrEnum):
    """How an archive is written; the name is also the end of the file's name."""

    PARQUET = "parquet"
    CSV_ZST = "csv.zst"
    CSV_GZ = "csv.gz"


class ArchiveSettings(StorageSettings):
    """Where archives go and in what format."""

    archive: str = Field(
        "",
        description="Where archives go: a folder or an object store's URL (s3://BUCKET/PREFIX), or several with commas "
        "between. The default is the folder `archive` of the data folder.",
    )
    archive_format: Format = Field(Format.PARQUET, description="How archives are written: parquet, csv.zst or csv.gz.")

    @property
    def places(self) -> list[str]:
        """The destinations, each as it was written."""
        return [place.strip() for place in self.archive.split(",") if place.strip()] or [str(self.data_dir / "archive")]
