import inspect
import traceback
from pathlib import Path
from urllib.parse import quote

import pytest
from asyncpg import connect_utils
from hypothesis import given
from hypothesis import strategies as st

from soulseek_research.storage import address
from soulseek_research.storage.errors import StorageError

# Long enough not to be in our own words by chance.
passwords = st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S"]), min_size=3, max_size=12).map(
    lambda text: f"pw{text}Z9"
)


@pytest.mark.parametrize(
    ("dsn", "words"),
    [
        ("", "the database URL is empty"),
        ("   ", "the database URL is empty"),
        ("sqlite:///searches.db", "PostgreSQL is needed, not SQLite: leave the database URL out to use the embedded"),
        ("sqlite+aiosqlite:///searches.db", "PostgreSQL is needed, not SQLite"),
        ("mysql://root@localhost/searches", 'PostgreSQL is needed, not "mysql"'),
        ("postgresql+asyncpg://u@h/d", 'write "postgresql://" instead of "postgresql+asyncpg://"'),
        ("host=localhost dbname=searches password=secret", "malformed: write postgresql://USER:PASSWORD@HOST"),
        ("localhost/searches", "malformed"),
        ("postgresql://u:p@ss@h/d", "percent escapes"),
        ("postgresql://u:p/ss@h/d", "percent escapes"),
        ("postgresql://u:12/ss@h/d", "percent escapes"),
        ("postgresql://u:p#ss@h/d", "percent escapes"),
        ("postgresql://u:p?x=1ss@h/d", "percent escapes"),
        ("postgresql://u@h:port/d", "malformed, at host and port"),
        ("postgresql://u@h:70000/d", "malformed, at host and port"),
        ("postgresql://u@[::1/d", "malformed"),
        ("postgresql://u@h/d?sslmode", "malformed"),
        ("postgresql://u@h/d?connect_timeout=soon", "connect_timeout is a number of seconds"),
        ("postgresql://u@h/d?channel_binding=require", 'asks for "channel_binding"'),
        ("postgresql://u@h/d?gssencmode=require", 'asks for "gssencmode"'),
        ("postgresql://u@h/d?require_auth=scram-sha-256", 'asks for "require_auth"'),
        ("postgresql://u@h/d?sslmode=verify-full&sslrootcert=/nowhere/ca.pem", "sslrootcert cannot be read: /nowhere/"),
        ("postgresql://u@h/d?port=x", "its port is not a number"),
    ],
)
def test_what_cannot_be_a_database_is_told_in_one_line(dsn: str, words: str) -> None:
    with pytest.raises(StorageError) as caught:
        address.parse(dsn)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("dsn", "place"),
    [
        ("postgresql://u:p@db.example.org/d", 'PostgreSQL at db.example.org, database "d"'),
        ("postgres://u@db.example.org:6432/d", 'PostgreSQL at db.example.org:6432, database "d"'),
        ("postgresql://u@[::1]:6432/d", 'PostgreSQL at [::1]:6432, database "d"'),
        ("postgresql://u@a:1,b:2/d?target_session_attrs=primary", 'PostgreSQL at a:1,b:2, database "d"'),
        ("postgresql://u@/d?host=/run/a%20b", 'PostgreSQL at /run/a b, database "d"'),
        ("postgresql://?host=h&port=9&dbname=d", 'PostgreSQL at h:9, database "d"'),
        ("postgresql://u@h", "PostgreSQL at h"),
        ("postgresql://", "PostgreSQL at the local socket"),
    ],
)
def test_a_place_is_told_without_login(dsn: str, place: str) -> None:
    assert address.parse(dsn).place == place


def test_what_only_libpq_knows_is_not_sent_to_the_server() -> None:
    dsn = "postgresql://u:p%40@h/d?connect_timeout=7&keepalives=1&channel_binding=prefer&sslmode=require&options=-c%20a%3Db"
    parsed = address.parse(dsn)
    assert parsed.timeout == 7
    assert parsed.dsn == "postgresql://u:p%40@h/d?sslmode=require&options=-c%20a%3Db"


def test_files_of_tls_are_handed_on(tmp_path: Path) -> None:
    authority = tmp_path / "an authority.pem"
    authority.touch()
    assert quote(str(authority), safe="") in address.parse(f"postgresql://h/d?sslrootcert={quote(str(authority))}").dsn


@given(passwords)
def test_an_escaped_password_arrives_as_it_is(password: str) -> None:
    parsed = address.parse(f"postgresql://someone:{quote(password, safe='')}@host/database")
    arguments = dict.fromkeys(inspect.signature(connect_utils._parse_connect_arguments).parameters)
    limits = dict.fromkeys(["statement_cache_size", "max_cached_statement_lifetime", "max_cacheable_statement_size"], 0)
    _, parameters, _ = connect_utils._parse_connect_arguments(**(arguments | limits | {"dsn": parsed.dsn}))
    assert (parameters.user, parameters.password, parameters.database) == ("someone", password, "database")
    assert password not in parsed.place


@given(passwords, st.sampled_from(["", "?sslmode=always", "?sslmode", "?port=x", "#", "?channel_binding=require"]))
def test_no_complaint_holds_a_password_however_it_was_written(password: str, rest: str) -> None:
    for dsn in (
        f"postgresql://someone:{password}@host/database{rest}",
        f"postgresql+psycopg2://someone:{password}@host/database{rest}",
        f"someone:{password}@host/database{rest}",
        f"host=h password={password}",
    ):
        try:
            said = address.parse(dsn).place
        except StorageError as error:
            said = "".join(traceback.format_exception(error))
        assert password not in said
        assert not any(part in said for part in password.replace("@", "/").split("/") if len(part) > 3)


@given(passwords)
def test_redacting(password: str) -> None:
    assert password not in address.redact(f"cannot open postgresql://someone:{password}@host/database")
    simple = quote(password, safe="")
    assert simple not in address.redact(f"postgresql://host/database?user=someone&password={simple}&sslmode=require")
    assert address.redact("postgresql://someone@host:5432/database") == "postgresql://someone@host:5432/database"
    assert address.redact("postgresql://someone:x@host/database") == "postgresql://someone:***@host/database"
    assert simple not in address.redact(f"host=h password={simple} dbname=d")
