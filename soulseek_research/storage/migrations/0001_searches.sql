-- The searches, append-only: one table, a partition a month, and no index, because it is written a hundred times a
-- second and read a month at a time. The order of the columns leaves no alignment holes (11 bytes a row). There is
-- deliberately no CHECK: one search that broke it would hold up its whole batch, so the collector cleans instead.
CREATE TABLE searches (
    id        bigint         GENERATED ALWAYS AS IDENTITY,
    timestamp timestamptz(3) NOT NULL,          -- when it arrived, UTC, to the millisecond: a search carries no time
    ticket    bigint,                           -- the searcher's own number for it, 0 to 4294967295
    source    smallint       NOT NULL,          -- by which of the four ways it came: collectors/search.py
    flags     smallint       NOT NULL DEFAULT 0,  -- a bit set: collectors/search.py
    client_id text           NOT NULL,          -- which collector heard it
    username  text           NOT NULL,          -- a pseudonym: <key id>.<base64url>
    query     text           NOT NULL
) PARTITION BY RANGE (timestamp);

-- What has been moved into files, a row for each part of a month.
CREATE TABLE archives (
    id              bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    month           date        NOT NULL CHECK (extract(day FROM month) = 1),
    part            integer     NOT NULL DEFAULT 1 CHECK (part >= 1),
    state           text        NOT NULL,
    format          text        NOT NULL,
    file_path       text        NOT NULL,
    record_count    bigint      NOT NULL,
    file_size       bigint      NOT NULL,
    sha256          text        NOT NULL,
    first_timestamp timestamptz,
    last_timestamp  timestamptz,
    archived_at     timestamptz NOT NULL DEFAULT now(),
    deleted         boolean     NOT NULL DEFAULT false,
    UNIQUE (month, part)
);

-- Names this database, so that a spool knows whether it is talking to the one that acknowledged its chunks.
CREATE TABLE database_identity (
    only_row    boolean     PRIMARY KEY DEFAULT true CHECK (only_row),
    database_id uuid        NOT NULL DEFAULT gen_random_uuid(),
    created_at  timestamptz NOT NULL DEFAULT now()
);
INSERT INTO database_identity DEFAULT VALUES;
