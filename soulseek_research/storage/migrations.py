"""The schema, made by numbered files that are applied once, in order, by the owner of the database."""

import functools
import hashlib
import logging
from dataclasses import dataclass
from importlib import resources

import asyncpg
from asyncpg import exceptions

from soulseek_research.storage import queries
from soulseek_research.storage.errors import StorageError

logger = logging.getLogger(__name__)

# Another migration is done in less; a writer that stands in the way for longer will not go away by itself.
LOCK_SECONDS = 60
COMMAND = "soulseek-research migrate"


@dataclass(frozen=True)
class Migration:
    """One file of `storage/migrations`."""

    version: int
    name: str
    sql: str

    @property
    def sha256(self) -> str:
        """Digest of the text, in hex: a file that has landed is never edited."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


@functools.cache
def landed() -> tuple[Migration, ...]:
    """Return the migrations of this version of the software, in order."""
    files = [f for f in resources.files(__package__).joinpath("migrations").iterdir() if f.name.endswith(".sql")]
    migrations = [
        Migration(int(file.name[:4]), file.name.removesuffix(".sql"), file.read_text(encoding="utf-8"))
        for file in sorted(files, key=lambda file: file.name)
    ]
    assert [m.version for m in migrations] == list(range(1, len(migrations) + 1)), (
        "migrations are numbered 0001, 0002 …"
    )
    return tuple(migrations)


async def migrate(connection: asyncpg.Connection) -> list[str]:
    """Bring the database up to this version of the software, all of it or nothing.

    Safe to call at every start and by many at once. Also makes the roles where the server allows it, applies the
    grants, and makes the partitions of this month and the next.

    Args:
        connection: Made by the owner of the database, outside a transaction.

    Returns:
        The names of the migrations that were applied; an empty list when there was nothing to do.

    Raises:
        StorageError: It cannot be done, and nothing was changed.
    """
    doing = "the migration"
    try:
        async with connection.transaction(isolation="read_committed"):
            await connection.execute(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'")
            await connection.execute("SET LOCAL search_path = public, pg_temp")
            await connection.execute(
                "SELECT pg_advisory_xact_lock(hashtextextended('soulseek-research migrations', 0))"
            )
            await _prepare(connection)
            missing = _missing(await _applied(connection))
            for migration in missing:
                doing = f"migration {migration.name}"
                await connection.execute(migration.sql)
                await _record(connection, migration)
            doing = "granting rights"
            await connection.execute(queries.load("grants"))
            await connection.execute("SELECT ensure_partitions_ahead()")
    except exceptions.LockNotAvailableError as error:
        raise StorageError(
            f"another transaction has stood in the way of {doing} for {LOCK_SECONDS} s: nothing was changed, try again"
        ) from error
    except exceptions.PostgresError as error:
        raise StorageError(f"{doing} failed and nothing was changed: {error}") from error
    await _warn_of_missing_roles(connection)
    return [migration.name for migration in missing]


async def check(connection: asyncpg.Connection) -> None:
    """Check that the database has the schema of this version of the software.

    Raises:
        StorageError: It has not; the line says what is missing and who should do what.
    """
    try:
        missing = _missing(await _applied(connection))
    except exceptions.UndefinedTableError:
        raise StorageError(f"this database is empty: run `{COMMAND}` as its owner") from None
    except exceptions.InsufficientPrivilegeError:
        login = await connection.fetchval("SELECT session_user")
        raise StorageError(
            f'"{login}" has no rights in this database: its owner should run '
            f'GRANT soulseek_research_collector TO "{login}" (or …_archivist, or …_analyst)'
        ) from None
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise StorageError(f"this database lacks migration {missing[0].name}{more}: run `{COMMAND}` as its owner")


async def _prepare(connection: asyncpg.Connection) -> None:
    """Refuse what cannot be migrated, make the roles, and become the owner of what is there."""
    standing = await connection.fetchrow(queries.load("standing"))
    assert standing is not None
    if standing["owner"] is None and standing["searches_kind"] is not None:
        raise StorageError(
            f'the database "{standing["database"]}" already holds a table "searches" that is not ours (an older '
            "soulseek-research made it, perhaps): use another database, or rename that table first"
        )
    await connection.execute(queries.load("roles"))
    if standing["owner"] not in (None, standing["login"]):
        await _become(connection, standing["owner"], standing["login"])
    if standing["owner"] is None:
        await _make_record(connection, standing["login"], standing["database"])


async def _become(connection: asyncpg.Connection, owner: str, login: str) -> None:
    """Act as the owner, so that everything belongs to one role and later migrations can alter it."""
    try:
        async with connection.transaction():
            await connection.execute(f'SET LOCAL ROLE "{owner.replace(chr(34), chr(34) * 2)}"')
    except exceptions.InsufficientPrivilegeError:
        raise StorageError(f'the tables belong to "{owner}": run `{COMMAND}` as "{owner}", not as "{login}"') from None


async def _make_record(connection: asyncpg.Connection, login: str, database: str) -> None:
    try:
        async with connection.transaction():
            await connection.execute(queries.load("schema_migrations"))
    except exceptions.InsufficientPrivilegeError:
        raise StorageError(
            f'"{login}" may not create tables in the database "{database}": '
            f'a superuser should run ALTER DATABASE "{database}" OWNER TO "{login}"'
        ) from None


async def _applied(connection: asyncpg.Connection) -> dict[int, tuple[str, str]]:
    """Return name and digest of what has been applied, by version."""
    try:
        rows = await connection.fetch("SELECT version, name, sha256 FROM public.schema_migrations ORDER BY version")
    except exceptions.UndefinedColumnError:
        raise StorageError(
            'this database holds a table "schema_migrations" of some other software: use another database'
        ) from None
    return {row["version"]: (row["name"], row["sha256"]) for row in rows}


def _missing(applied: dict[int, tuple[str, str]]) -> list[Migration]:
    """Return what is to be applied.

    Raises:
        StorageError: The database is newer than the software, or a migration was edited after it had landed.
    """
    known = landed()
    if applied and max(applied) > len(known):
        name, _ = applied[max(applied)]
        raise StorageError(
            f"this database is newer than this software (it has migration {name}, the newest known here is "
            f"{known[-1].name}): upgrade soulseek-research"
        )
    for migration in known:
        if migration.version in applied and applied[migration.version][1] != migration.sha256:
            raise StorageError(
                f"migration {migration.name} is not the one that was applied to this database: "
                "a migration is never edited after it has landed, this installation is not sound"
            )
    return [migration for migration in known if migration.version not in applied]


async def _record(connection: asyncpg.Connection, migration: Migration) -> None:
    await connection.execute(
        "INSERT INTO schema_migrations (version, name, sha256) VALUES ($1, $2, $3)",
        migration.version,
        migration.name,
        migration.sha256,
    )


async def _warn_of_missing_roles(connection: asyncpg.Connection) -> None:
    rows = await connection.fetch(queries.load("missing_roles"))
    if rows:
        logger.warning(
            "this server has no role %s and does not let us create it: everything runs with the rights of the owner. "
            "A superuser can create the roles; run `%s` again after that",
            ", ".join(row["name"] for row in rows),
            COMMAND,
        )
    if await connection.fetchval("SELECT has_schema_privilege('public', 'public', 'CREATE')"):
        logger.warning(
            "anybody who can log in may create objects in the schema public of this database: "
            "a superuser should run REVOKE CREATE ON SCHEMA public FROM PUBLIC in it"
        )
