"""What went wrong, in one line for people: it says what to do, and names nobody and no secret."""

import click


def complaint(error: Exception) -> str:
    """Say what went wrong.

    Only what was written for people is quoted. The text of any other exception may hold what must not be shown, as may
    its traceback; its type and its place in the code are enough to find it.
    """
    from collectors import privacy  # noqa: PLC0415 - `--help` needs none of these
    from collectors.errors import CollectorError  # noqa: PLC0415
    from soulseek_research.storage.errors import StorageError  # noqa: PLC0415

    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, CollectorError | StorageError):
        return str(error)
    if isinstance(error, OSError) and error.filename:
        return f"{error.strerror}: {error.filename}"
    return f"unforeseen: {privacy.describe(error)} at {privacy.whereabouts(error)}; please report it"
