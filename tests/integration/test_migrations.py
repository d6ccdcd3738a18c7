import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from asyncpg import exceptions

from soulseek_research.storage import database as db
from soulseek_research.storage import migrations
from soulseek_research.storage.embedded import EmbeddedServer
from soulseek_research.storage.errors import StorageError
from tests import databases

NAMES = [migration.name for migration in migrations.landed()]


@pytest.fixture
async def bare_server(data_dir: Path) -> AsyncIterator[str]:
    """A server of the test's own, on which our roles have never been: they belong to the whole server."""
    server = EmbeddedServer(data_dir)
    try:
        yield server.start()
    finally:
        server.release(wait=True)


async def _migrate(dsn: str) -> list[str]:
    async with databases.connected(dsn) as connection:
        return await migrations.migrate(connection)


async def _tables(dsn: str) -> list[str]:
    async with databases.connected(dsn) as connection:
        rows = await connection.fetch("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace")
        return [row["relname"] for row in rows]


async def test_migrate_applies_each_migration_once(empty_database: str) -> None:
    async with databases.connected(empty_database) as connection:
        assert await migrations.migrate(connection) == NAMES
        assert await migrations.migrate(connection) == []
        await migrations.check(connection)
        recorded = await connection.fetch("SELECT name, sha256 FROM schema_migrations ORDER BY version")
    assert [tuple(row) for row in recorded] == [(m.name, m.sha256) for m in migrations.landed()]


async def test_ten_may_start_together(empty_database: str) -> None:
    results = await asyncio.gather(*(_migrate(empty_database) for _ in range(10)))
    assert sorted(results, key=len) == [[]] * 9 + [NAMES]


async def test_ten_databases_of_one_server_may_be_migrated_together(bare_server: str) -> None:
    names = [f"together_{number}" for number in range(10)]
    async with databases.connected(bare_server) as connection:
        for name in names:
            await connection.execute(f"CREATE DATABASE {name}")
    results = await asyncio.gather(*(_migrate(databases.named(bare_server, name)) for name in names))
    assert results == [NAMES] * 10
    for name in names:
        async with databases.connected(databases.named(bare_server, name), role=db.Role.COLLECTOR) as connection:
            assert await connection.fetchval("SELECT claim_collector('eu')") == 1


async def test_all_or_nothing(empty_database: str) -> None:
    async with databases.connected(empty_database) as connection:
        await connection.execute("CREATE TABLE coverage (something text)")
    with pytest.raises(StorageError, match=r'0002_collectors failed and nothing was changed: relation "coverage"'):
        await _migrate(empty_database)
    assert await _tables(empty_database) == ["coverage"]


async def test_a_migration_that_was_edited_after_it_had_landed_is_refused(database: str) -> None:
    async with databases.connected(database) as connection:
        await connection.execute("UPDATE schema_migrations SET sha256 = 'another' WHERE version = 2")
        with pytest.raises(StorageError, match="0002_collectors is not the one that was applied"):
            await migrations.migrate(connection)
        with pytest.raises(StorageError, match="0002_collectors is not the one that was applied"):
            await migrations.check(connection)


async def test_a_database_newer_than_the_software_is_refused(database: str) -> None:
    async with databases.connected(database) as connection:
        await connection.execute("INSERT INTO schema_migrations VALUES (9999, '9999_flying_cars', '')")
        with pytest.raises(StorageError, match=r"9999_flying_cars.*upgrade soulseek-research"):
            await migrations.migrate(connection)
        with pytest.raises(StorageError, match=r"9999_flying_cars.*upgrade soulseek-research"):
            await migrations.check(connection)


async def test_check_says_what_is_missing_and_what_to_run(empty_database: str) -> None:
    async with databases.connected(empty_database) as connection:
        with pytest.raises(StorageError, match="empty: run `soulseek-research migrate`"):
            await migrations.check(connection)
        await migrations.migrate(connection)
        await connection.execute("DELETE FROM schema_migrations WHERE version >= 2")
        others = len(migrations.landed()) - 2
        with pytest.raises(StorageError, match=f"lacks migration 0002_collectors and {others} more: run `soulseek-re"):
            await migrations.check(connection)


async def test_check_tells_a_login_without_rights_who_can_help(database: str, login: str) -> None:
    async with databases.connected(databases.as_user(database, login)) as connection:
        with pytest.raises(StorageError, match=f'GRANT soulseek_research_collector TO "{login}"'):
            await migrations.check(connection)


async def test_every_role_can_check(database: str) -> None:
    for role in db.Role:
        async with databases.connected(database, role=role) as connection:
            await migrations.check(connection)


async def test_the_predecessors_table_is_not_touched(empty_database: str) -> None:
    async with databases.connected(empty_database) as connection:
        await connection.execute("CREATE TABLE searches (id serial PRIMARY KEY, username text, query text)")
        await connection.execute("INSERT INTO searches (username, query) VALUES ('somebody', 'something')")
        with pytest.raises(StorageError, match='already holds a table "searches" that is not ours'):
            await migrations.migrate(connection)
        assert await connection.fetchval("SELECT count(*) FROM searches") == 1


async def test_the_record_of_another_software_is_not_touched(empty_database: str) -> None:
    async with databases.connected(empty_database) as connection:
        await connection.execute("CREATE TABLE schema_migrations (version varchar PRIMARY KEY)")
        with pytest.raises(StorageError, match="some other software"):
            await migrations.migrate(connection)
        with pytest.raises(StorageError, match="some other software"):
            await migrations.check(connection)


async def test_a_schema_named_like_the_login_does_not_catch_the_tables(empty_database: str) -> None:
    async with databases.connected(empty_database) as connection:
        await connection.execute("CREATE SCHEMA AUTHORIZATION CURRENT_USER")
        await connection.execute("CREATE TEMP TABLE schema_migrations (version integer)")
        await migrations.migrate(connection)
        assert await connection.fetchval("SELECT to_regclass('public.searches')") is not None


async def test_an_owner_that_may_not_make_roles_does_everything_until_they_are_there(
    bare_server: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with databases.connected(bare_server) as superuser:
        await superuser.execute("CREATE ROLE landlord LOGIN NOCREATEROLE")
        await superuser.execute("CREATE DATABASE house OWNER landlord")
        house = databases.as_user(databases.named(bare_server, "house"), "landlord")

        with caplog.at_level(logging.WARNING):
            assert await _migrate(house) == NAMES
        assert "no role soulseek_research_analyst, soulseek_research_archivist, soulseek_research_col" in caplog.text
        connection = await db.connect(house, role=db.Role.COLLECTOR)
        assert await connection.fetchval("SELECT claim_collector('eu')") == 1
        await connection.close()

        # Later a superuser makes the roles, and the owner gives them their rights.
        for role in db.Role:
            await superuser.execute(f"CREATE ROLE {role}")
        await superuser.execute("CREATE ROLE tenant LOGIN IN ROLE soulseek_research_collector")
    assert await _migrate(house) == []
    tenant = databases.as_user(house, "tenant")
    async with databases.connected(tenant) as connection:
        assert await connection.fetchval("SELECT claim_collector('eu')") == 2
        with pytest.raises(exceptions.InsufficientPrivilegeError):
            await connection.fetch("SELECT * FROM searches")
    with pytest.raises(StorageError, match='belong to "landlord": run `soulseek-research migrate` as "landlord"'):
        await _migrate(tenant)


async def test_an_owner_that_may_make_roles_can_step_down_to_them(bare_server: str) -> None:
    async with databases.connected(bare_server) as superuser:
        await superuser.execute("CREATE ROLE landlord LOGIN CREATEROLE")
        await superuser.execute("CREATE DATABASE house OWNER landlord")
    house = databases.as_user(databases.named(bare_server, "house"), "landlord")
    await _migrate(house)
    for role in db.Role:
        connection = await db.connect(house, role=role)
        assert await connection.fetchval("SELECT current_user") == role
        await connection.close()


async def test_what_a_superuser_migrates_belongs_to_the_owner(bare_server: str) -> None:
    async with databases.connected(bare_server) as superuser:
        await superuser.execute('CREATE ROLE "the landlord" LOGIN')
        await superuser.execute('CREATE DATABASE house OWNER "the landlord"')
    house = databases.named(bare_server, "house")
    await _migrate(databases.as_user(house, "the landlord"))
    async with databases.connected(house) as superuser:
        await superuser.execute("DROP TABLE searches_" + (await _month(superuser, ahead=1)))
        await migrations.migrate(superuser)
        owners = await superuser.fetch(
            "SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class WHERE relnamespace = 'public'::regnamespace"
        )
        assert [row[0] for row in owners] == ["the landlord"]
        assert await superuser.fetchval("SELECT current_user") != "the landlord"


async def test_a_login_that_may_not_create_tables_is_told_what_it_needs(empty_database: str, login: str) -> None:
    with pytest.raises(StorageError, match=f'may not create tables.*OWNER TO "{login}"'):
        await _migrate(databases.as_user(empty_database, login))


async def test_an_older_postgresql_does_as_well(old_server: str) -> None:
    async with databases.fresh(old_server) as dsn:
        assert await _migrate(dsn) == NAMES
        async with databases.connected(dsn, role=db.Role.COLLECTOR) as collector:
            await collector.execute(
                "INSERT INTO searches (timestamp, source, client_id, username, query) "
                "VALUES (now(), 1, 'eu', 'key.name', 'query')"
            )
            assert await collector.fetchval("SELECT ensure_partition((now() - interval '2 months')::date)")
        async with databases.connected(dsn, role=db.Role.ANALYST) as analyst:
            assert await analyst.fetchval("SELECT id FROM searches") == 1


async def _month(connection: asyncpg.Connection, *, ahead: int) -> str:
    return await connection.fetchval(
        "SELECT to_char(now() AT TIME ZONE 'UTC' + make_interval(months => $1), 'YYYY_MM')", ahead
    )
