"""The rows of an archive, as Arrow holds them between PostgreSQL and a file."""

import pyarrow as pa

SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("timestamp", pa.timestamp("ms", "UTC"), nullable=False),
        pa.field("ticket", pa.int64()),
        pa.field("source", pa.int16(), nullable=False),
        pa.field("flags", pa.int16(), nullable=False),
        pa.field("client_id", pa.string(), nullable=False),
        pa.field("username", pa.string(), nullable=False),
        pa.field("query", pa.string(), nullable=False),
    ]
)
COLUMNS = tuple(SCHEMA.names)
TEXTS = ("client_id", "username", "query")
