import asyncio
import contextlib
import socket
import traceback
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from soulseek_research.storage import database as db
from soulseek_research.storage.errors import StorageError
from tests import databases, servers, tls
from tests.proxy import Proxy

PASSWORD = "swordfish"


@contextlib.asynccontextmanager
async def _connected(dsn: str, **options: object) -> AsyncIterator[asyncpg.Connection]:
    connection = await db.connect(dsn, **options)  # type: ignore[arg-type]
    try:
        yield connection
    finally:
        await connection.close()


async def _complaint(dsn: str, **options: object) -> StorageError:
    """What a failed connect says; it is one line, and neither it nor its traceback holds the password."""
    with pytest.raises(StorageError) as caught:
        async with _connected(dsn, **options):
            pass
    assert "\n" not in str(caught.value)
    assert PASSWORD not in "".join(traceback.format_exception(caught.value))
    return caught.value


@pytest.fixture
async def password_login(server_dsn: str, login: str) -> AsyncIterator[str]:
    """A login that the server asks for its password."""
    async with databases.asking(server_dsn, login, PASSWORD):
        yield login


async def test_a_session_is_in_utc_and_has_a_name(database: str) -> None:
    async with _connected(database, application_name="a test", server_settings={"lock_timeout": "7s"}) as connection:
        assert await connection.fetchval("SHOW timezone") == "UTC"
        assert await connection.fetchval("SHOW application_name") == "a test"
        assert await connection.fetchval("SHOW lock_timeout") == "7s"


@pytest.mark.parametrize("role", db.Role)
async def test_a_member_has_the_rights_of_the_role_only_and_keeps_to_them(
    database: str, login: str, role: db.Role
) -> None:
    async with databases.connected(database) as owner:
        await owner.execute(f"GRANT {role} TO {login}")
    for dsn in (database, databases.as_user(database, login)):
        async with _connected(dsn, role=role) as connection:
            assert await connection.fetchval("SELECT current_user") == role
            await connection.execute("RESET ROLE")
            await connection.execute("RESET ALL")
            await connection.execute("RESET SESSION AUTHORIZATION")
            assert await connection.fetchval("SELECT current_user") == role


async def test_a_login_that_is_no_member_keeps_its_own_rights(database: str, login: str) -> None:
    async with _connected(databases.as_user(database, login), role=db.Role.COLLECTOR) as connection:
        assert await connection.fetchval("SELECT current_user") == login


async def test_a_password_opens_and_a_wrong_one_is_told(database: str, password_login: str) -> None:
    async with _connected(databases.as_user(database, password_login, PASSWORD)) as connection:
        assert await connection.fetchval("SELECT current_user") == password_login
    wrong = await _complaint(databases.as_user(database, password_login, f"{PASSWORD}2"))
    assert "refuses the login (password authentication failed" in str(wrong)
    assert not isinstance(wrong, db.DatabaseAwayError)


async def test_no_such_login_and_no_such_database(database: str) -> None:
    assert 'role "nobody_here" does not exist' in str(await _complaint(databases.as_user(database, "nobody_here")))
    complaint = str(await _complaint(databases.named(database, "nowhere")))
    assert 'database "nowhere" does not exist; create it' in complaint


async def test_a_server_that_is_not_there_may_come_back(database: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    for dsn in (
        f"postgresql://someone:{PASSWORD}@127.0.0.1:{port}/somewhere",
        f"postgresql://someone:{PASSWORD}@/somewhere?host={tmp_path}",
    ):
        complaint = await _complaint(dsn)
        assert isinstance(complaint, db.DatabaseAwayError)
        assert "cannot be reached" in str(complaint)


async def test_a_host_that_nobody_knows_may_be_known_later() -> None:
    complaint = await _complaint(f"postgresql://someone:{PASSWORD}@soulseek-research.invalid/somewhere")
    assert isinstance(complaint, db.DatabaseAwayError)
    assert "soulseek-research.invalid" in str(complaint)


async def test_a_server_that_says_nothing_is_given_up() -> None:
    async def say_nothing(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with servers.listening(say_nothing) as port:
        dsn = f"postgresql://someone:{PASSWORD}@127.0.0.1:{port}/somewhere"
        for complaint in (await _complaint(dsn, timeout=0.2), await _complaint(f"{dsn}?connect_timeout=0.2")):
            assert isinstance(complaint, db.DatabaseAwayError)
            assert "does not answer" in str(complaint)


async def test_a_server_that_is_no_postgresql() -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()

    async with servers.listening(greet) as port:
        for mode in ("disable", "require"):
            await _complaint(f"postgresql://someone:{PASSWORD}@127.0.0.1:{port}/somewhere?sslmode={mode}", timeout=2)


async def test_a_full_server_may_have_room_later(database: str, login: str) -> None:
    async with databases.connected(database) as owner:
        await owner.execute(f"ALTER ROLE {login} CONNECTION LIMIT 0")
    complaint = await _complaint(databases.as_user(database, login))
    assert isinstance(complaint, db.DatabaseAwayError)
    assert "has no connection left" in str(complaint)


async def test_committed_has_to_mean_kept(database: str, login: str) -> None:
    async with databases.connected(database) as owner:
        await owner.execute(f"ALTER ROLE {login} SET synchronous_commit = off")
    assert "has synchronous_commit=off" in str(await _complaint(databases.as_user(database, login)))
    assert "has synchronous_commit=off" in str(await _complaint(f"{database}&options=-c%20synchronous_commit%3Doff"))
    async with _connected(f"{database}&synchronous_commit=local"):
        pass


@pytest.mark.parametrize(
    ("found", "role", "words"),
    [
        ({"fsync": "off"}, None, "has fsync=off"),
        ({"version": "13.22", "version_number": 130022}, None, "is version 13.22, and 14 or newer is needed"),
        ({"encoding": "SQL_ASCII"}, None, "has the encoding SQL_ASCII"),
        ({"standby": True}, db.Role.COLLECTOR, "is a standby"),
        ({"standby": True}, db.Role.ANALYST, None),
        ({}, db.Role.COLLECTOR, None),
    ],
)
def test_what_a_server_has_to_be(found: dict[str, object], role: db.Role | None, words: str | None) -> None:
    sound = {
        "version": "14.0",
        "version_number": 140000,
        "encoding": "UTF8",
        "synchronous_commit": "on",
        "fsync": "on",
        "standby": False,
    }
    objection = db.objection_to(sound | found, role)
    assert objection is None if words is None else words in str(objection)


async def test_a_database_of_another_encoding_is_refused(server_dsn: str) -> None:
    async with databases.fresh(server_dsn, "ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0") as dsn:
        assert "has the encoding LATIN1" in str(await _complaint(dsn))


async def test_what_the_server_does_not_know_in_the_url(database: str) -> None:
    assert 'unrecognized configuration parameter "sslmoed"' in str(await _complaint(f"{database}&sslmoed=require"))
    assert "sslmode" in str(await _complaint(f"{database}&sslmode=always"))


async def test_parameters_that_only_libpq_knows_do_no_harm(database: str) -> None:
    async with _connected(
        f"{database}&connect_timeout=5&keepalives_idle=9&channel_binding=prefer&client_encoding=UTF8"
    ):
        pass
    assert 'asks for "channel_binding"' in str(await _complaint(f"{database}&channel_binding=require"))


async def test_both_ends_look_for_a_dead_one(database: str) -> None:
    async with Proxy(database) as proxy, _connected(proxy.dsn, keepalive_seconds=12) as connection:
        ours = connection._transport.get_extra_info("socket")
        assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 3
        assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 12_000
    async with _connected(database, keepalive_seconds=12) as connection:  # a unix socket has none
        assert await connection.fetchval("SELECT 1") == 1


async def test_a_connection_that_is_cut_while_it_is_made(database: str) -> None:
    async with Proxy(database) as proxy:
        proxy.stall()
        asyncio.get_running_loop().call_later(0.2, proxy.cut)
        assert isinstance(await _complaint(proxy.dsn), db.DatabaseAwayError)


async def test_tls_is_demanded_where_the_url_demands_it(database: str) -> None:
    login = urlsplit(database).username
    async with tls.front(database, None) as port:
        dsn = f"postgresql://{login}:{PASSWORD}@localhost:{port}/{databases.name_of(database)}"
        assert "does not speak TLS" in str(await _complaint(f"{dsn}?sslmode=require"))
        async with _connected(dsn):
            pass


async def test_tls_checks_who_the_server_is(database: str, tmp_path: Path) -> None:
    certificate = tls.Certificate.make(tmp_path)
    login = urlsplit(database).username
    async with tls.front(database, certificate) as port:
        dsn = f"postgresql://{login}:{PASSWORD}@{{}}:{port}/{databases.name_of(database)}"
        trusting = f"?sslmode=verify-full&sslrootcert={certificate.file}"
        async with _connected(dsn.format("localhost") + trusting) as connection:
            assert connection._protocol.is_ssl
        async with _connected(dsn.format("localhost") + "?sslmode=require"):
            pass
        assert "certificate that is not trusted" in str(await _complaint(dsn.format("127.0.0.1") + trusting))
        other = tmp_path / "other"
        other.mkdir()
        stranger = tls.Certificate.make(other)
        complaint = await _complaint(f"{dsn.format('localhost')}?sslmode=verify-ca&sslrootcert={stranger.file}")
        assert "certificate that is not trusted" in str(complaint)
        assert not isinstance(complaint, db.DatabaseAwayError)
        missing = tmp_path / "missing.pem"
        assert str(missing) in str(
            await _complaint(f"{dsn.format('localhost')}?sslmode=verify-ca&sslrootcert={missing}")
        )
