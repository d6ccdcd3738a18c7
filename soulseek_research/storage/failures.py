"""Why the database cannot be used, in one line for people that says what to do."""

import socket
import ssl

from asyncpg import exceptions

from soulseek_research.storage.errors import StorageError


class DatabaseAwayError(StorageError):
    """The database cannot be reached now; the same attempt may succeed later, with nothing changed."""


# The first that fits counts, so the particular stands before the general.
_KNOWN: tuple[tuple[type[BaseException], type[StorageError], str], ...] = (
    (
        exceptions.InvalidPasswordError,
        StorageError,
        "{place} refuses the login ({reason}): check user and password in the database URL",
    ),
    (
        exceptions.InvalidAuthorizationSpecificationError,
        StorageError,
        "{place} refuses the login ({reason}): check the user and sslmode in the database URL, and pg_hba.conf there",
    ),
    (exceptions.InsufficientPrivilegeError, StorageError, "{place} refuses the login: {reason}"),
    (
        exceptions.InvalidCatalogNameError,
        StorageError,
        "{place}: {reason}; create it (CREATE DATABASE) or correct the database URL",
    ),
    (
        exceptions.TooManyConnectionsError,
        DatabaseAwayError,
        "{place} has no connection left ({reason}): raise max_connections there or end what holds them",
    ),
    (exceptions.CannotConnectNowError, DatabaseAwayError, "{place} does not take connections at the moment: {reason}"),
    (exceptions.OperatorInterventionError, DatabaseAwayError, "{place} is being shut down: {reason}"),
    (
        exceptions.ProtocolViolationError,
        StorageError,
        "{place} does not take our settings ({reason}): give the address of PostgreSQL itself, not of a pooler",
    ),
    (exceptions.UndefinedObjectError, StorageError, "{place} does not know a parameter of the database URL: {reason}"),
    (
        exceptions.InvalidParameterValueError,
        StorageError,
        "{place} does not take a parameter of the database URL: {reason}",
    ),
    (exceptions.PostgresError, DatabaseAwayError, "{place} refuses the connection: {reason}"),
    (exceptions.ClientConfigurationError, StorageError, "the database URL cannot be used: {reason}"),
    (
        ssl.SSLCertVerificationError,
        StorageError,
        "{place} shows a certificate that is not trusted ({reason}): name its authority with sslrootcert=FILE",
    ),
    (ssl.SSLError, StorageError, "no TLS connection with {place} ({reason}): check sslmode and its files"),
    (
        TimeoutError,
        DatabaseAwayError,
        "{place} does not answer: is the address right, and does no firewall stand in between?",
    ),
    (socket.gaierror, DatabaseAwayError, "{place}: the host is not known ({reason}); check its name"),
    (PermissionError, StorageError, "{place}: this user may not open its socket ({reason})"),
    (
        OSError,
        DatabaseAwayError,
        "{place} cannot be reached ({reason}): is it running, and is the address right?",
    ),
    (exceptions.InterfaceError, DatabaseAwayError, "{place} cannot be reached: {reason}"),
    (exceptions.InternalClientError, DatabaseAwayError, "{place} cannot be used: {reason}"),
)


def explain(error: BaseException, place: str) -> StorageError:
    """Turn a failed attempt to connect into a line for people.

    Args:
        error: What `asyncpg.connect` raised.
        place: The database, in words that hold no secret.

    Returns:
        A DatabaseAwayError where time may help, a plain StorageError where somebody has to change something.
    """
    # asyncpg has no exception of its own for a server that answers "no TLS here".
    if isinstance(error, ConnectionError) and "SSL upgrade" in str(error):
        return StorageError(f"{place} does not speak TLS, which sslmode in the database URL demands")
    for kind, meaning, line in _KNOWN:
        if isinstance(error, kind):
            return meaning(line.format(place=place, reason=_reason(error)))
    # A parser that stumbled may have the password in its words.
    return StorageError(f"{place}: the database URL cannot be used as it is written")


def _reason(error: BaseException) -> str:
    words = getattr(error, "verify_message", None) or getattr(error, "strerror", None) or str(error)
    return str(words or type(error).__name__).splitlines()[0][:200]
