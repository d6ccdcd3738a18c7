-- The spool: what was heard and is not yet known to be in the database, and a day of what is.
-- A segment is one claim of the client id by one process; its chunks are numbered 1, 2, 3 ... without holes.
CREATE TABLE segments (
    segment               INTEGER PRIMARY KEY,          -- in the order they were opened
    segment_id            TEXT    NOT NULL UNIQUE,      -- a random uuid
    opened_at_ms          INTEGER NOT NULL,
    last_position         INTEGER NOT NULL DEFAULT 0,   -- stays when the chunks are gone: no position is used twice
    last_searches         INTEGER NOT NULL DEFAULT 0,   -- searches in all its chunks together
    acknowledged_position INTEGER NOT NULL DEFAULT 0,   -- the database has everything up to here
    acknowledged_searches INTEGER NOT NULL DEFAULT 0,
    acknowledged_at_ms    INTEGER,
    database_id           TEXT,                         -- which database acknowledged
    pruned_position       INTEGER NOT NULL DEFAULT 0,   -- chunks up to here are gone from the spool
    pruned_searches       INTEGER NOT NULL DEFAULT 0,
    pruned_digest         BLOB                          -- of the last chunk that is gone
);

-- One flush, one row. `ledger` is JSON, `searches` is as COPY takes it, almost (collectors/chunk.py).
-- Pages of 4 KB and rows by rowid waste the least, at a hundred searches a chunk and at five hundred.
CREATE TABLE chunks (
    segment        INTEGER NOT NULL,
    position       INTEGER NOT NULL,
    search_count   INTEGER NOT NULL,
    searches_until INTEGER NOT NULL,  -- in the segment up to this chunk, so that nothing has to be counted
    heard_until_ms INTEGER NOT NULL,
    digest         BLOB    NOT NULL,
    ledger         TEXT    NOT NULL,
    searches       BLOB    NOT NULL,
    PRIMARY KEY (segment, position)
);

-- When which position was acknowledged: a chunk stays a while after that, for a database restored from a backup.
-- In the order of time, so that what is old enough is found without a scan.
CREATE TABLE acknowledgements (
    segment            INTEGER NOT NULL,
    acknowledged_at_ms INTEGER NOT NULL,
    position           INTEGER NOT NULL,
    PRIMARY KEY (segment, acknowledged_at_ms, position)
) WITHOUT ROWID;

-- Small things to know while the database is away.
CREATE TABLE facts (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;
