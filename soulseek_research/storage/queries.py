"""The SQL that is longer than a line or two, by name: `sql/<name>.sql`."""

import functools
from importlib import resources


@functools.cache
def load(name: str) -> str:
    """Return the text of `storage/sql/<name>.sql`.

    Raises:
        FileNotFoundError: There is no such query.
    """
    return resources.files(__package__).joinpath("sql", f"{name}.sql").read_text(encoding="utf-8")
