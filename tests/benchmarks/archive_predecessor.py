"""The predecessor's way of archiving a month, in a process of its own.

    python -m tests.benchmarks.archive_predecessor YYYY-MM FOLDER        (database as for our archive)

A server-side cursor, chunk after chunk through pandas into Parquet with snappy, then DELETE, and VACUUM FULL to get the
space back. Nothing is read back or compared. Where its users' script was slower it is spared that: it asked for the
month by `to_char(timestamp)`, sorted it, and held all of it in memory.
"""

import os
import sys
from pathlib import Path

import pandas as pd
import psycopg
import pyarrow as pa
from pyarrow import parquet

from soulseek_research.storage.archive.month import Month

CHUNK_ROWS = 100_000
COLUMNS = ("client_id", "timestamp", "username", "query")
OF_MONTH = "FROM searches WHERE timestamp >= %s AND timestamp < %s"

# What it stored, from what we store: a name's SHA-256 in hex where we have a pseudonym, and no ticket.
TABLE = """
    CREATE TABLE searches (
        id        serial       PRIMARY KEY,
        client_id varchar(50)  NOT NULL,
        timestamp timestamptz  NOT NULL,
        username  varchar(255) NOT NULL,
        query     text         NOT NULL
    )
"""
ROWS = """
    SELECT client_id, timestamp, encode(sha256(convert_to(username, 'UTF8')), 'hex') AS username, query
    FROM searches ORDER BY id
"""


def archive(dsn: str, month: Month, folder: Path) -> None:
    """Write the month to a file and delete it from the table."""
    with psycopg.connect(dsn) as connection:
        export(connection, month, folder / f"searches_{month}.parquet")
        connection.execute(f"DELETE {OF_MONTH}", (month.start, month.end))
        connection.commit()
        connection.autocommit = True
        connection.execute("VACUUM FULL searches")


def export(connection: psycopg.Connection, month: Month, path: Path) -> None:
    writer = None
    with connection.cursor(name="export") as cursor:
        cursor.itersize = CHUNK_ROWS
        cursor.execute(f"SELECT {', '.join(COLUMNS)} {OF_MONTH}", (month.start, month.end))
        while chunk := cursor.fetchmany(CHUNK_ROWS):
            table = pa.Table.from_pandas(pd.DataFrame(chunk, columns=COLUMNS), preserve_index=False)
            if writer is None:
                writer = parquet.ParquetWriter(path, table.schema, compression="snappy")
            writer.write_table(table)
    if writer is not None:
        writer.close()


if __name__ == "__main__":
    archive(os.environ["SOULSEEK_RESEARCH_DATABASE_URL"], Month.parse(sys.argv[1]), Path(sys.argv[2]))
