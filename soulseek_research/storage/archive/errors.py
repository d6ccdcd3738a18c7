"""What goes wrong with an archive, and whether it may go away by itself."""

from asyncpg import exceptions

from soulseek_research.storage.errors import StorageError
from soulseek_research.storage.failures import DatabaseAwayError


class ArchiveError(StorageError):
    """It cannot be done until somebody changes something; nothing was lost."""


class ArchiveBusyError(ArchiveError):
    """Something stands in the way that will go away by itself: the same attempt may succeed later."""


# Connections that end, servers that restart or run out of something, locks, deadlocks, serialisation.
_PASSING = (
    ArchiveBusyError,
    DatabaseAwayError,
    exceptions.PostgresConnectionError,
    exceptions.OperatorInterventionError,
    exceptions.InsufficientResourcesError,
    exceptions.TransactionRollbackError,
    exceptions.LockNotAvailableError,
    exceptions.InterfaceError,
    ConnectionError,
    TimeoutError,
)


def is_passing(error: BaseException) -> bool:
    """Whether the same attempt may succeed later with nothing changed.

    An error of ours is judged by itself and then by what caused it: a lost connection is told in our words.
    """
    if isinstance(error, _PASSING):
        return True
    return isinstance(error, StorageError) and error.__cause__ is not None and is_passing(error.__cause__)
