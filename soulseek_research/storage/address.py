"""The database URL: checked before a driver sees it, and never shown with its password."""

import os
import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from soulseek_research.storage.errors import StorageError

EXAMPLE = "postgresql://USER:PASSWORD@HOST:5432/DATABASE"

_HOST = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[^\[\]:/?#@]+)(?::(?P<port>[0-9]{1,5}))?")

# What libpq understands and asyncpg would pass to the server, which refuses it. Without these nothing is lost.
_ONLY_LIBPQ = {
    "client_encoding",
    "fallback_application_name",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "load_balance_hosts",
    "sslcompression",
    "sslsni",
    "tcp_user_timeout",
}
# With these something is: who asks for them is to know that the driver cannot.
_BEYOND_ASYNCPG = {
    "channel_binding": {"disable", "prefer"},
    "gssencmode": {"disable", "prefer"},
    "require_auth": {""},
    "sslcertmode": {"allow", "disable"},
}


@dataclass(frozen=True)
class Address:
    """Where PostgreSQL is."""

    dsn: str  # as asyncpg takes it
    place: str  # as people may read it
    timeout: float | None  # seconds, where the URL says so


def redact(text: str) -> str:
    """Return a database URL, or a text with one in it, without its password."""
    text = re.sub(r"(://[^:/@\s]*):.*@", r"\1:***@", text, flags=re.DOTALL)
    return re.sub(r"(?i)((?:ssl)?password\s*=\s*)('[^']*'|[^&\s]*)", r"\1***", text)


def parse(dsn: str) -> Address:
    """Check a database URL.

    Raises:
        StorageError: It is none of PostgreSQL, or not well formed; the text never quotes what might be a password.
    """
    dsn = dsn.strip()
    _check_scheme(dsn)
    try:
        url = urlsplit(dsn)
        parameters = dict(parse_qsl(url.query, strict_parsing=bool(url.query), keep_blank_values=True))
    except ValueError:
        raise StorageError(f"the database URL is malformed: write {EXAMPLE}") from None
    login, _, hosts = url.netloc.rpartition("@")
    if url.fragment or "@" in login + url.path + url.query or "#" in dsn:
        raise StorageError(
            "the database URL is malformed: in user and password the characters : / ? # [ ] @ % are written as "
            "percent escapes (@ as %40, / as %2F, # as %23)"
        )
    elsewhere = _hosts_of(parameters)
    places = _check_hosts(hosts) or elsewhere
    timeout = _timeout(parameters.pop("connect_timeout", ""))
    _check_wishes(parameters)
    _check_files(parameters)
    query = urlencode(
        {name: value for name, value in parameters.items() if value and name not in _ONLY_LIBPQ}, quote_via=quote
    )
    database = unquote(url.path.removeprefix("/")) or parameters.get("dbname", "")
    return Address(
        dsn=url._replace(query=query).geturl(),
        place=f"PostgreSQL at {places or 'the local socket'}" + (f', database "{database}"' if database else ""),
        timeout=timeout,
    )


def _check_scheme(dsn: str) -> None:
    scheme, found, _ = dsn.partition("://")
    if not dsn:
        raise StorageError("the database URL is empty: leave it out to use the embedded PostgreSQL")
    if scheme.lower().startswith("sqlite"):
        raise StorageError(
            "PostgreSQL is needed, not SQLite: leave the database URL out to use the embedded PostgreSQL"
        )
    if not found or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]{0,40}", scheme):
        raise StorageError(f"the database URL is malformed: write {EXAMPLE}")
    if scheme.lower().startswith(("postgresql+", "postgres+")):
        raise StorageError(f'the database URL names a driver: write "postgresql://" instead of "{scheme}://"')
    if scheme not in {"postgresql", "postgres"}:
        raise StorageError(
            f'PostgreSQL is needed, not "{scheme}": write {EXAMPLE}, or leave the URL out to use the embedded one'
        )


def _check_hosts(hosts: str) -> str:
    """Return the hosts of `host1:port1,host2`, for people."""
    if not hosts:
        return ""
    for host in hosts.split(","):
        found = _HOST.fullmatch(host)
        if not found or (found["port"] and not 0 < int(found["port"]) < 65536):
            raise StorageError(f"the database URL is malformed, at host and port: write {EXAMPLE}")
    return unquote(hosts)


def _hosts_of(parameters: dict[str, str]) -> str:
    port = parameters.get("port", "")
    if port and not re.fullmatch(r"[0-9]{1,5}(,[0-9]{1,5})*", port):
        raise StorageError("the database URL is malformed: its port is not a number")
    host = parameters.get("host", "")
    return f"{host}:{port}" if host and port and not host.startswith("/") else host


def _timeout(text: str) -> float | None:
    """Seconds to wait for a connection; libpq's 0, for ever, is not ours."""
    try:
        seconds = float(text or 0)
    except ValueError:
        seconds = -1
    if not 0 <= seconds < 3600:
        raise StorageError("the database URL is malformed: connect_timeout is a number of seconds")
    return seconds or None


def _check_wishes(parameters: dict[str, str]) -> None:
    for name, granted in _BEYOND_ASYNCPG.items():
        if parameters.pop(name, next(iter(granted))) not in granted:
            raise StorageError(
                f'the database URL asks for "{name}", which the driver (asyncpg) cannot do: take it out, '
                "and use sslmode=verify-full to be sure of the server"
            )


def _check_files(parameters: dict[str, str]) -> None:
    # The driver's own words for a file that is missing do not name it.
    for name in ("sslrootcert", "sslcert", "sslkey", "sslcrl", "passfile"):
        path = parameters.get(name)
        if path and not os.access(path, os.R_OK):
            raise StorageError(f"the file that the database URL names as {name} cannot be read: {path}")
