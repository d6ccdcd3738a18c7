from pathlib import Path

import pytest

from soulseek_research.storage.errors import StorageError
from soulseek_research.storage.settings import StorageSettings


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("DATABASE_URL", "DATABASE_URL_FILE", "DATA_DIR"):
        monkeypatch.delenv(f"SOULSEEK_RESEARCH_{name}", raising=False)
    monkeypatch.chdir(tmp_path)


def test_without_a_url_the_embedded_one_is_meant() -> None:
    assert StorageSettings().dsn() is None


def test_a_url_from_the_environment_goes_before_that_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("SOULSEEK_RESEARCH_DATABASE_URL=postgresql://u:dotted@h/d\n")
    assert StorageSettings().dsn() == "postgresql://u:dotted@h/d"
    monkeypatch.setenv("SOULSEEK_RESEARCH_DATABASE_URL", "postgresql://u:sworn@h/d")
    settings = StorageSettings()
    assert settings.dsn() == "postgresql://u:sworn@h/d"
    assert "sworn" not in repr(settings)


def test_an_empty_line_in_dot_env_sets_nothing() -> None:
    Path(".env").write_text("SOULSEEK_RESEARCH_DATABASE_URL=\nSOULSEEK_RESEARCH_DATABASE_URL_FILE=\n")
    assert StorageSettings().dsn() is None


def test_a_url_from_a_secret_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "url"
    file.write_text("postgresql://u:p@h/d\n")
    monkeypatch.setenv("SOULSEEK_RESEARCH_DATABASE_URL_FILE", str(file))
    assert StorageSettings().dsn() == "postgresql://u:p@h/d"
    file.write_text(" \n")
    with pytest.raises(StorageError, match="is empty"):
        StorageSettings().dsn()
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(StorageError, match="it is not text"):
        StorageSettings().dsn()
    file.unlink()
    with pytest.raises(StorageError, match="cannot be read"):
        StorageSettings().dsn()


def test_two_urls_are_one_too_many() -> None:
    with pytest.raises(StorageError, match="not both"):
        StorageSettings(database_url="postgresql://h/d", database_url_file=Path("url")).dsn()  # type: ignore[arg-type]


def test_the_data_folder_does_not_depend_on_where_one_stands_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOULSEEK_RESEARCH_DATA_DIR", "here/below")
    settings = StorageSettings()
    assert settings.data_dir == Path.cwd() / "here/below"
    assert StorageSettings(data_dir=Path("~/x")).data_dir == Path.home() / "x"
