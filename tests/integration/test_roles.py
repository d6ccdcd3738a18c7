import json
import uuid
from datetime import UTC, datetime

import asyncpg
import pytest
from asyncpg import exceptions

from soulseek_research.storage.database import Role
from tests import databases

COLLECTOR, ARCHIVIST, ANALYST = Role
PRIVILEGES = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER")
RECORDS = {"schema_migrations", "database_identity"}
TABLES = RECORDS | {
    "searches", "archives", "key_epochs", "collectors", "spool_segments", "coverage", "gaps", "minutes",
    "frozen_searches", "searches_all", "retention", "imports",
}  # fmt: skip
MAY_READ = {COLLECTOR: RECORDS, ARCHIVIST: TABLES, ANALYST: TABLES}
MAY_WRITE = {
    COLLECTOR: {("searches", "INSERT")},
    ARCHIVIST: {("archives", "INSERT"), ("archives", "UPDATE"), ("retention", "UPDATE")},
    ANALYST: set[tuple[str, str]](),
}
ARCHIVING = {"seal_month", "drop_frozen", "open_restored", "close_restored", "open_imported", "close_imported"}
PURE = {"of_month", "frozen_name"}
INTERNAL = PURE | {"grant_frozen"}
MAY_CALL_ALSO = {
    ARCHIVIST: ARCHIVING | {"ensure_partition", "ensure_partitions_ahead", "known_key_epochs"},
    ANALYST: set[str](),
}

A_SEARCH = "(timestamp, source, client_id, username, query) VALUES (now(), 1, 'eu', 'key.name', 'query')"
FUNCTIONS = """
SELECT p.oid::regprocedure::text AS signature, p.proname, p.prosecdef, p.proconfig,
       has_function_privilege($1, p.oid, 'EXECUTE') AS allowed
FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace
"""


FORBIDDEN = {
    COLLECTOR: [
        "SELECT * FROM searches",
        "SELECT FROM searches",
        "SELECT * FROM {partition}",
        "COPY searches TO STDOUT",
        "COPY (SELECT query FROM searches) TO STDOUT",
        "UPDATE searches SET query = ''",
        "DELETE FROM searches",
        "TRUNCATE searches",
        f"INSERT INTO searches {A_SEARCH} RETURNING id",
        f"INSERT INTO {{partition}} {A_SEARCH}",
        "SELECT * FROM key_epochs",
        "SELECT * FROM collectors",
        "SELECT * FROM coverage",
        "SELECT * FROM minutes",
        "SELECT * FROM archives",
        "INSERT INTO key_epochs VALUES ('key', 'fingerprint', 'aes-siv', now())",
        "INSERT INTO minutes VALUES ('eu', now(), 1)",
        "UPDATE spool_segments SET committed_position = 0",
        "UPDATE collectors SET fencing_token = 7",
        "UPDATE database_identity SET database_id = gen_random_uuid()",
        "DELETE FROM schema_migrations",
        "ALTER TABLE searches DETACH PARTITION {partition}",
        "DROP TABLE {partition}",
        "CREATE INDEX ON searches (query)",
        "CREATE TABLE mine (x integer)",
        "CREATE RULE mine AS ON INSERT TO searches DO INSTEAD NOTHING",
        "SET ROLE soulseek_research_archivist",
    ],
    ARCHIVIST: [
        "DROP TABLE {partition}",
        "ALTER TABLE searches DETACH PARTITION {partition}",
        "TRUNCATE {partition}",
        "DELETE FROM searches",
        f"INSERT INTO searches {A_SEARCH}",
        "DELETE FROM archives",
        "UPDATE retention SET only_row = true WHERE false; DELETE FROM retention",
        "DROP TABLE frozen_searches",
        "INSERT INTO imports VALUES ('s', '2024-01-01', 1, 'k', 0)",
        "SELECT grant_frozen('key_epochs', true)",
        "INSERT INTO key_epochs VALUES ('key', 'fingerprint', 'aes-siv', now())",
        "SELECT register_first_key('key', 'fingerprint', 'aes-siv')",
        "SELECT claim_collector('eu')",
        "UPDATE coverage SET kept = 0",
    ],
    ANALYST: [
        f"INSERT INTO searches {A_SEARCH}",
        "UPDATE searches SET username = ''",
        "DELETE FROM searches",
        "TRUNCATE searches",
        "DROP TABLE searches",
        "INSERT INTO archives DEFAULT VALUES",
        "SELECT claim_collector('eu')",
        "SELECT ensure_partition(now()::date)",
        "DELETE FROM coverage",
        "DELETE FROM gaps",
        "CREATE TABLE mine (x integer)",
    ],
}


@pytest.mark.parametrize("role", Role)
async def test_a_role_has_these_rights_and_no_others(database: str, role: Role) -> None:
    expected = {(table, "SELECT") for table in MAY_READ[role]} | MAY_WRITE[role]
    async with databases.connected(database) as connection:
        rows = await connection.fetch(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v')"
        )
        tables = {row["relname"] for row in rows}
        actual = {
            (table, privilege)
            for table in tables
            for privilege in PRIVILEGES
            if await connection.fetchval("SELECT has_table_privilege($1, $2, $3)", role.value, table, privilege)
        }
        columns = await connection.fetch(
            "SELECT attrelid::regclass, attname FROM pg_attribute WHERE attacl IS NOT NULL AND attrelid > 16384"
        )
    assert tables >= TABLES
    assert actual == expected
    assert columns == []


async def test_nobody_calls_a_function_without_being_told_so(database: str) -> None:
    async with databases.connected(database) as connection:
        ours = {row["proname"] for row in await connection.fetch(FUNCTIONS, COLLECTOR.value)}
        assert {row["proname"] for row in await connection.fetch(FUNCTIONS, "public") if row["allowed"]} == set()
        assert {row["proname"] for row in await connection.fetch(FUNCTIONS, COLLECTOR.value) if row["allowed"]} == (
            ours - ARCHIVING - INTERNAL
        )
        for role, allowed in MAY_CALL_ALSO.items():
            rows = await connection.fetch(FUNCTIONS, role.value)
            assert {row["proname"] for row in rows if row["allowed"]} == allowed


async def test_what_runs_as_the_owner_finds_nothing_that_others_could_have_put_there(database: str) -> None:
    async with databases.connected(database) as connection:
        functions = await connection.fetch(FUNCTIONS, COLLECTOR.value)
    assert functions
    for function in functions:
        assert function["prosecdef"] or function["proname"] in PURE, function["signature"]
        assert "search_path=pg_catalog, pg_temp" in function["proconfig"], function["signature"]


@pytest.mark.parametrize("role", Role)
async def test_the_forbidden_fails(database: str, login: str, role: Role) -> None:
    partition = f"searches_{datetime.now(UTC):%Y_%m}"
    went_through = []
    async with databases.connected(await _member(database, login, role), role=role) as connection:
        for statement in FORBIDDEN[role]:
            try:
                await connection.execute(statement.format(partition=partition))
            except exceptions.InsufficientPrivilegeError:
                continue
            went_through.append(statement)
    assert went_through == []


async def test_a_collector_can_do_its_work(database: str, login: str) -> None:
    segment, now = uuid.uuid4(), datetime.now(UTC)
    async with databases.connected(await _member(database, login, COLLECTOR), role=COLLECTOR) as connection:
        token = await connection.fetchval("SELECT claim_collector('eu')")
        async with connection.transaction():
            await _advance(connection, token, segment, now)
            await connection.copy_records_to_table(
                "searches",
                records=[(now, 7, 1, 0, "eu", "key.name", "query")],
                columns=["timestamp", "ticket", "source", "flags", "client_id", "username", "query"],
            )
        await connection.execute("SELECT report_status('eu', $1, '{}')", token)
        assert await connection.fetchval("SELECT register_first_key('key', 'fingerprint', 'aes-siv')")
        assert await connection.fetchval("SELECT count(*) FROM known_key_epochs()") == 1
        assert await connection.fetchval("SELECT database_id FROM database_identity")
    async with databases.connected(database, role=ANALYST) as connection:
        assert await connection.fetchval("SELECT query FROM searches") == "query"
        assert await connection.fetchval("SELECT kept FROM minutes") == 1


async def test_temporary_tables_do_not_stand_in_front_of_ours(database: str, login: str) -> None:
    segment, now = uuid.uuid4(), datetime.now(UTC)
    async with databases.connected(await _member(database, login, COLLECTOR), role=COLLECTOR) as connection:
        for table in ("collectors", "spool_segments", "coverage", "gaps", "minutes", "key_epochs", "searches"):
            await connection.execute(f"CREATE TEMP TABLE {table} (client_id text, fencing_token bigint)")
        await connection.execute("CREATE TEMP TABLE pg_class (relname text)")
        await connection.execute("INSERT INTO pg_temp.collectors VALUES ('eu', 99)")
        await connection.execute(
            "CREATE FUNCTION pg_temp.hashtextextended(text, bigint) RETURNS bigint LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'reached as %', current_user; END $$"
        )
        await connection.execute("SET search_path = pg_temp, public")
        assert await connection.fetchval("SELECT public.claim_collector('eu')") == 1
        with pytest.raises(exceptions.ObjectNotInPrerequisiteStateError):
            await connection.execute("SELECT public.check_fence('eu', 99)")
        await _advance(connection, 1, segment, now)
        assert await connection.fetchval("SELECT public.register_first_key('key', 'fingerprint', 'aes-siv')")
        assert await connection.fetchval("SELECT public.ensure_partition((now() - interval '3 months')::date)")
    async with databases.connected(database) as owner:
        assert await owner.fetchval("SELECT fencing_token FROM collectors") == 1
        assert await owner.fetchval("SELECT committed_position FROM spool_segments") == 1
        assert await owner.fetchval("SELECT count(*) FROM key_epochs") == 1


async def _member(database: str, login: str, role: Role) -> str:
    """DSN of a login that is a member of the role and has no other right."""
    async with databases.connected(database) as connection:
        await connection.execute(f"GRANT {role} TO {login}")
    return databases.as_user(database, login)


async def _advance(connection: asyncpg.Connection, token: int, segment: uuid.UUID, now: datetime) -> None:
    stretch = {
        "stretch_id": str(uuid.uuid4()),
        "started_at": now.isoformat(),
        "ended_at": now.isoformat(),
        "role": "child",
        "branch_level": 1,
        "kept": 1,
    }
    minute = now.replace(second=0, microsecond=0).isoformat()
    await connection.execute(
        "SELECT public.advance_segment('eu', $1, $2, $3, 0, 1, $4, 1, $5, $6, '{}')",
        token,
        segment,
        now,
        b"digest",
        json.dumps([stretch]),
        json.dumps({minute: 1}),
    )
