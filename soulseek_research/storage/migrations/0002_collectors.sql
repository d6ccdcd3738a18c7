-- No column that is updated every few seconds is indexed, so that 99.9 % of the updates stay on their page and leave
-- nothing for VACUUM. A lower fillfactor was measured and makes it worse: after a day of batches `minutes` and
-- `coverage` are five to seventeen times larger.

-- The pseudonym keys: their fingerprints and from when each counts, never a key.
CREATE TABLE key_epochs (
    key_id       text        PRIMARY KEY,
    fingerprint  text        NOT NULL UNIQUE,
    algorithm    text        NOT NULL CHECK (algorithm IN ('aes-siv', 'hmac-sha256')),
    valid_from   timestamptz NOT NULL UNIQUE,       -- '-infinity' for the first: there is nothing before it
    announced_at timestamptz NOT NULL DEFAULT now()
);

-- One row a client id: who holds it (the fencing token) and what it last said of itself.
CREATE TABLE collectors (
    client_id     text        PRIMARY KEY
                              CONSTRAINT client_id_is_printable
                              CHECK (client_id ~ '^\S(.{0,62}\S)?$' AND client_id !~ '[\u0001-\u001f\u007f-\u009f]'),
    fencing_token bigint      NOT NULL DEFAULT 0,
    claimed_at    timestamptz NOT NULL DEFAULT now(),
    heartbeat_at  timestamptz NOT NULL DEFAULT now(),
    last_batch_at timestamptz,
    status        jsonb       NOT NULL DEFAULT '{}'
);

-- How far each spool segment has been committed. The position moves in the transaction that stores its rows, and
-- nowhere else: that is what makes "exactly once" true.
CREATE TABLE spool_segments (
    segment_id         uuid        PRIMARY KEY,
    client_id          text        NOT NULL REFERENCES collectors,
    fencing_token      bigint      NOT NULL,
    opened_at          timestamptz NOT NULL,
    committed_position bigint      NOT NULL DEFAULT 0,
    committed_digest   bytea,
    committed_at       timestamptz,
    spooled_position   bigint      NOT NULL DEFAULT 0,
    ended              text        CHECK (ended IN ('drained', 'lost', 'diverged'))
);

-- The ledger of listening. A stretch is a time in which one collector truly heard the network at one place in the
-- tree; where there is no stretch, nobody listened.
CREATE TABLE coverage (
    stretch_id         uuid        PRIMARY KEY,
    client_id          text        NOT NULL REFERENCES collectors,
    segment_id         uuid        NOT NULL,
    started_at         timestamptz NOT NULL,
    ended_at           timestamptz NOT NULL,           -- it is known to have listened until here
    end_reason         text,                           -- null while it listens
    role               text        NOT NULL CHECK (role IN ('child', 'branch root', 'addressed')),
    branch_level       integer     NOT NULL,
    branch_root        text,                           -- a pseudonym
    kept               bigint      NOT NULL DEFAULT 0,
    duplicates         bigint      NOT NULL DEFAULT 0,
    refused            bigint      NOT NULL DEFAULT 0,
    dropped            bigint      NOT NULL DEFAULT 0,
    reasons            jsonb       NOT NULL DEFAULT '{}',  -- refused and dropped, by reason
    clock_offset_ms    double precision,               -- the collector's clock minus the database's
    clock_round_trip_ms double precision,
    clock_synchronised boolean,                        -- as the host says; null where it does not say
    CHECK (ended_at >= started_at)
);
CREATE INDEX coverage_by_client ON coverage (client_id, started_at);

-- What was heard or should have been, and is not there.
CREATE TABLE gaps (
    id          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    gap_id      uuid        NOT NULL DEFAULT gen_random_uuid() UNIQUE,  -- by which a growing gap is found again
    client_id   text        NOT NULL REFERENCES collectors,
    segment_id  uuid,
    started_at  timestamptz NOT NULL,
    ended_at    timestamptz NOT NULL,
    reason      text        NOT NULL,
    searches    bigint,                                -- how many, null where nobody can know
    detail      text,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    CHECK (ended_at >= started_at)
);
CREATE INDEX gaps_by_client ON gaps (client_id, started_at);

-- How many searches each collector kept in each minute, so that `status` and the live view never read `searches`. Half
-- a million rows a collector and year (some 50 MB) that outlive the archiving of the searches themselves.
CREATE TABLE minutes (
    client_id text        NOT NULL,
    minute    timestamptz NOT NULL,
    kept      integer     NOT NULL,
    PRIMARY KEY (client_id, minute)
);
