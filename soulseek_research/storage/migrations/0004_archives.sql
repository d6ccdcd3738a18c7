-- Finished months: out of `searches` into frozen tables, from there into files, and back when somebody asks.

-- The parent of all frozen tables, sealed or restored. Inheritance and not a partition, because two parts of one month
-- overlap, and because neither coming nor going locks this parent against readers or the others.
CREATE TABLE frozen_searches (
    LIKE searches,
    CONSTRAINT holds_no_row_itself CHECK (false) NO INHERIT
);

-- Every search that the database holds now: live, sealed or restored, each once.
CREATE VIEW searches_all AS
    SELECT id, timestamp, ticket, source, flags, client_id, username, query FROM searches
    UNION ALL
    SELECT id, timestamp, ticket, source, flags, client_id, username, query FROM frozen_searches;

-- A part is on its way from `sealed` to `archived`, and this row is the truth about how far it has come:
--   sealed:   a frozen table, and no file that counts
--   exported: a file that is complete and not yet read back
--   verified: read back, and equal to the table
--   archived: its manifest stands beside it; only now may the table be dropped
--   expired:  retention has deleted the file
ALTER TABLE archives
    ALTER COLUMN format          DROP NOT NULL,
    ALTER COLUMN file_path       DROP NOT NULL,
    ALTER COLUMN record_count    DROP NOT NULL,
    ALTER COLUMN file_size       DROP NOT NULL,
    ALTER COLUMN sha256          DROP NOT NULL,
    ALTER COLUMN archived_at     DROP NOT NULL,
    ALTER COLUMN archived_at     DROP DEFAULT,
    ADD COLUMN table_name        text,                        -- the frozen table that holds its rows now
    ADD COLUMN places            text[] NOT NULL DEFAULT '{}',  -- each destination that holds file_path
    ADD COLUMN checksum          text,                        -- of the rows: archive/checksum.py
    ADD COLUMN tally             jsonb,                       -- count, first, last and sums: archive/tally.py
    ADD COLUMN key_ids           text[],                      -- of the pseudonyms in it
    ADD COLUMN usernames         boolean NOT NULL DEFAULT true,  -- false when retention has removed them
    ADD COLUMN table_size        bigint,                      -- bytes
    ADD COLUMN column_sizes      jsonb,                       -- bytes in the file, by column
    ADD COLUMN seconds           double precision NOT NULL DEFAULT 0,  -- of work on it
    ADD COLUMN software          text,
    ADD COLUMN sealed_at         timestamptz,
    ADD COLUMN verified_at       timestamptz,
    ADD COLUMN deleted_at        timestamptz,                 -- when the sealed table was dropped
    ADD COLUMN restored_at       timestamptz,
    ADD CONSTRAINT known_state CHECK (state IN ('sealed', 'exported', 'verified', 'archived', 'expired')),
    ADD CONSTRAINT rows_are_somewhere CHECK (state IN ('archived', 'expired') OR table_name IS NOT NULL);

-- How long what is kept where. One row, changed by `soulseek-research retain`.
CREATE TABLE retention (
    only_row         boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    queryable_months integer NOT NULL DEFAULT 1 CHECK (queryable_months >= 0),  -- finished months kept as tables
    usernames_months integer CHECK (usernames_months >= 1),  -- after so many, archives lose the usernames; null: never
    archive_months   integer CHECK (archive_months >= 1)     -- after so many, archives are deleted; null: never
);
INSERT INTO retention DEFAULT VALUES;

-- What was imported from where, so that an import that was interrupted goes on and none is done twice.
CREATE TABLE imports (
    source      text        NOT NULL,  -- names the table or file that it came from
    month       date        NOT NULL,
    part        integer     NOT NULL,
    key_id      text        NOT NULL,
    rows        bigint      NOT NULL,
    imported_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (source, month),
    FOREIGN KEY (month, part) REFERENCES archives (month, part)
);

-- As in 0003; and the table says itself which month it is, so that once it is frozen a reader of another month skips it.
CREATE OR REPLACE FUNCTION ensure_partition(month date) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
DECLARE
    first_day      timestamp := date_trunc('month', month::timestamp);
    this_month     timestamp := date_trunc('month', localtimestamp);
    partition_name text      := 'searches_' || to_char(first_day, 'YYYY_MM');
BEGIN
    IF (first_day BETWEEN this_month - interval '13 months' AND this_month + interval '2 months') IS NOT TRUE THEN
        RAISE EXCEPTION 'no partition is made for %: it lies outside the months that can be', month
            USING ERRCODE = 'datetime_field_overflow';
    END IF;
    IF pg_partition_root(to_regclass('public.' || partition_name)) = 'public.searches'::regclass THEN
        RETURN false;
    END IF;
    -- What ATTACH takes as well: one maker at a time, and no writer or reader waits. (After waiting for an advisory
    -- lock, the catalogue would still look as it did before.)
    LOCK TABLE public.searches IN SHARE UPDATE EXCLUSIVE MODE;
    IF pg_partition_root(to_regclass('public.' || partition_name)) = 'public.searches'::regclass THEN
        RETURN false;
    END IF;
    IF to_regclass('public.' || partition_name) IS NOT NULL THEN
        RAISE EXCEPTION 'the table % is in the way of the partition of that name, not being one', partition_name
            USING ERRCODE = 'duplicate_table';
    END IF;
    EXECUTE format('CREATE TABLE public.%I (LIKE public.searches INCLUDING DEFAULTS INCLUDING CONSTRAINTS, %s)',
                   partition_name, public.of_month(first_day));
    EXECUTE format('ALTER TABLE public.searches ATTACH PARTITION public.%I FOR VALUES FROM (%L) TO (%L)',
                   partition_name,
                   to_char(first_day, 'YYYY-MM-DD') || ' 00:00:00+00',
                   to_char(first_day + interval '1 month', 'YYYY-MM-DD') || ' 00:00:00+00');
    RETURN true;
END $$;

-- The constraint of a table that holds nothing but one month.
CREATE FUNCTION of_month(first_day timestamp) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('CONSTRAINT of_month CHECK (timestamp >= %L AND timestamp < %L)',
                  to_char(first_day, 'YYYY-MM-DD') || ' 00:00:00+00',
                  to_char(first_day + interval '1 month', 'YYYY-MM-DD') || ' 00:00:00+00')
$$;

-- What a part's table is called.
CREATE FUNCTION frozen_name(kind text, month date, part integer) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('%s_%s_part%s', kind, to_char(month, 'YYYY_MM'), part)
$$;

-- Lets the archivist read a frozen table, and write to one that is being filled.
CREATE FUNCTION grant_frozen(table_name text, writable boolean) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF to_regrole('soulseek_research_archivist') IS NOT NULL THEN
        EXECUTE format('REVOKE ALL ON public.%I FROM soulseek_research_archivist', table_name);
        EXECUTE format('GRANT SELECT %s ON public.%I TO soulseek_research_archivist',
                       CASE WHEN writable THEN ', INSERT' ELSE '' END, table_name);
    END IF;
END $$;

-- Takes a finished month out of `searches`; returns the part it becomes, or null when nothing of it is there.
-- The partition is locked first: behind that nobody waits who works on other months, and so it may wait for longer than
-- deadlock_timeout, a second, after which PostgreSQL ends an autovacuum that is in the way. While it waits for the
-- parent, every writer waits behind it: no longer than a moment.
-- Raises 55000 for a month that is not over, 55P03 when the time for a lock has run out.
CREATE FUNCTION seal_month(month date) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
DECLARE
    first_day      date := date_trunc('month', month::timestamp)::date;
    partition_name text := 'searches_' || to_char(first_day, 'YYYY_MM');
    sealed_name    text;
    new_part       integer;
    filled         boolean;
BEGIN
    IF first_day + interval '1 month' > localtimestamp THEN
        RAISE EXCEPTION '% is not over', to_char(first_day, 'YYYY-MM')
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    IF pg_partition_root(to_regclass('public.' || partition_name)) IS DISTINCT FROM 'public.searches'::regclass THEN
        RETURN NULL;
    END IF;
    PERFORM set_config('lock_timeout', '2s', true);
    BEGIN
        EXECUTE format('LOCK TABLE public.%I IN ACCESS EXCLUSIVE MODE', partition_name);
    EXCEPTION
        WHEN undefined_table THEN RETURN NULL;  -- somebody else sealed it meanwhile
    END;
    PERFORM set_config('lock_timeout', '200ms', true);
    LOCK TABLE ONLY public.searches IN ACCESS EXCLUSIVE MODE;
    IF pg_partition_root(to_regclass('public.' || partition_name)) IS DISTINCT FROM 'public.searches'::regclass THEN
        RETURN NULL;
    END IF;
    EXECUTE format('ALTER TABLE public.searches DETACH PARTITION public.%I', partition_name);
    SELECT coalesce(max(a.part), 0) + 1 INTO new_part FROM public.archives a WHERE a.month = first_day;
    EXECUTE format('SELECT EXISTS (SELECT FROM public.%I)', partition_name) INTO filled;
    IF new_part > 1 AND NOT filled THEN
        EXECUTE format('DROP TABLE public.%I', partition_name);
        RETURN NULL;
    END IF;
    sealed_name := public.frozen_name('sealed', first_day, new_part);
    EXECUTE format('ALTER TABLE public.%I RENAME TO %I', partition_name, sealed_name);
    -- It would write the whole table once more, which is soon to be dropped, and be in the way of that.
    EXECUTE format('ALTER TABLE public.%I SET (autovacuum_enabled = false)', sealed_name);
    EXECUTE format('ALTER TABLE public.%I INHERIT public.frozen_searches', sealed_name);
    PERFORM public.grant_frozen(sealed_name, false);
    INSERT INTO public.archives (month, part, state, table_name, sealed_at)
        VALUES (first_day, new_part, 'sealed', sealed_name, now());
    RETURN new_part;
END $$;

-- Drops the frozen table of a part that is archived; says whether there was one. Whether the file is sound is for the
-- caller to have looked at. Raises 55000 for a part that is not archived.
CREATE FUNCTION drop_frozen(archive_month date, archive_part integer) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found public.archives;
BEGIN
    SELECT * INTO found FROM public.archives a WHERE a.month = archive_month AND a.part = archive_part FOR UPDATE;
    IF found.table_name IS NULL THEN
        RETURN false;
    END IF;
    IF found.state <> 'archived' THEN
        RAISE EXCEPTION 'part % of % is not archived but %: its table stays', archive_part,
            to_char(archive_month, 'YYYY-MM'), found.state USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    -- NO INHERIT first: it fails for whatever is not one of ours.
    EXECUTE format('ALTER TABLE public.%I NO INHERIT public.frozen_searches', found.table_name);
    EXECUTE format('DROP TABLE public.%I', found.table_name);
    UPDATE public.archives a
       SET table_name = NULL, deleted = true, deleted_at = coalesce(a.deleted_at, now()), restored_at = NULL
     WHERE a.id = found.id;
    RETURN true;
END $$;

-- Makes the table that an archived part is loaded into, and names it; `close_restored` puts it behind `searches_all`.
-- Both in one transaction with the loading. Raises 55000 when the part is there already, or is in no file.
CREATE FUNCTION open_restored(archive_month date, archive_part integer) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
DECLARE
    found         public.archives;
    restored_name text := public.frozen_name('restored', archive_month, archive_part);
BEGIN
    SELECT * INTO found FROM public.archives a WHERE a.month = archive_month AND a.part = archive_part FOR UPDATE;
    IF found.table_name IS NOT NULL OR found.state IS DISTINCT FROM 'archived' THEN
        RAISE EXCEPTION 'part % of % is not restored: %', archive_part, to_char(archive_month, 'YYYY-MM'),
            coalesce('it is there, in the table ' || found.table_name, 'it is ' || found.state, 'nothing is known of it')
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    EXECUTE format('CREATE TABLE public.%I (LIKE public.frozen_searches, %s)', restored_name,
                   public.of_month(archive_month::timestamp));
    PERFORM public.grant_frozen(restored_name, true);
    RETURN restored_name;
END $$;

CREATE FUNCTION close_restored(archive_month date, archive_part integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    restored_name text := public.frozen_name('restored', archive_month, archive_part);
BEGIN
    EXECUTE format('ALTER TABLE public.%I INHERIT public.frozen_searches', restored_name);
    PERFORM public.grant_frozen(restored_name, false);
    UPDATE public.archives a SET table_name = restored_name, restored_at = now()
     WHERE a.month = archive_month AND a.part = archive_part;
END $$;

-- Makes the table that a month from elsewhere is loaded into, as the next part of that month, and returns that part;
-- `close_imported` puts it behind `searches_all`, sealed and ready to be archived. Both in one transaction with the
-- loading. Its ids go on from those of `searches`.
CREATE FUNCTION open_imported(import_month date) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
DECLARE
    first_day   date := date_trunc('month', import_month::timestamp)::date;
    sealed_name text;
    new_part    integer;
BEGIN
    SELECT coalesce(max(a.part), 0) + 1 INTO new_part FROM public.archives a WHERE a.month = first_day;
    sealed_name := public.frozen_name('sealed', first_day, new_part);
    EXECUTE format('CREATE TABLE public.%I (LIKE public.frozen_searches, %s)', sealed_name,
                   public.of_month(first_day::timestamp));
    EXECUTE format('ALTER TABLE public.%I ALTER COLUMN id SET DEFAULT nextval(%L)', sealed_name,
                   pg_get_serial_sequence('public.searches', 'id'));
    PERFORM public.grant_frozen(sealed_name, true);
    INSERT INTO public.archives (month, part, state, table_name, sealed_at)
        VALUES (first_day, new_part, 'sealed', sealed_name, now());
    RETURN new_part;
END $$;

CREATE FUNCTION close_imported(import_month date, import_part integer, import_source text, import_key text,
                               import_rows bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    sealed_name text := public.frozen_name('sealed', import_month, import_part);
BEGIN
    EXECUTE format('ALTER TABLE public.%I ALTER COLUMN id DROP DEFAULT', sealed_name);
    EXECUTE format('ALTER TABLE public.%I INHERIT public.frozen_searches', sealed_name);
    PERFORM public.grant_frozen(sealed_name, false);
    INSERT INTO public.imports (source, month, part, key_id, rows)
        VALUES (import_source, import_month, import_part, import_key, import_rows);
END $$;
