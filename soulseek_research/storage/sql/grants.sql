-- Who may do what: the whole truth, applied at every `migrate`, so that it also reaches roles that came later and takes
-- back what a newer version no longer gives.

-- On PostgreSQL 14 anybody may create in public. Without the right to change that, this is a warning, not an error.
REVOKE CREATE ON SCHEMA public FROM PUBLIC;

DO $$
DECLARE
    collector text := 'soulseek_research_collector';
    archivist text := 'soulseek_research_archivist';
    analyst   text := 'soulseek_research_analyst';
    grantee   text;
    tables    text := 'schema_migrations, database_identity, searches, archives, key_epochs, collectors, spool_segments,
        coverage, gaps, minutes, frozen_searches, searches_all, retention, imports';
    functions text := 'ensure_partition(date), ensure_partitions_ahead(), claim_collector(text),
        check_fence(text, bigint),
        segment_positions(text, uuid[]), record_coverage(text, bigint, uuid, jsonb),
        advance_segment(text, bigint, uuid, timestamptz, bigint, bigint, bytea, bigint, jsonb, jsonb, jsonb),
        record_gap(text, bigint, uuid, timestamptz, timestamptz, text, bigint, text),
        record_gaps(text, bigint, uuid, jsonb),
        end_segments(text, bigint, uuid[], text), missing_segments(text, uuid[]),
        close_open_stretches(text, bigint, uuid, text), report_status(text, bigint, jsonb),
        known_key_epochs(), register_first_key(text, text, text)';
    archiving text := 'seal_month(date), drop_frozen(date, integer), open_restored(date, integer),
        close_restored(date, integer), open_imported(date), close_imported(date, integer, text, text, bigint)';
    internal  text := 'grant_frozen(text, boolean), of_month(timestamp), frozen_name(text, date, integer)';
    frozen    text;
BEGIN
    EXECUTE format('REVOKE EXECUTE ON FUNCTION %s, %s, %s FROM PUBLIC', functions, archiving, internal);

    FOREACH grantee IN ARRAY ARRAY[collector, archivist, analyst] LOOP
        CONTINUE WHEN to_regrole(grantee) IS NULL;
        EXECUTE format('REVOKE ALL ON %s FROM %I', tables, grantee);
        EXECUTE format('REVOKE EXECUTE ON FUNCTION %s, %s, %s FROM %I', functions, archiving, internal, grantee);
        EXECUTE format('GRANT USAGE ON SCHEMA public TO %I', grantee);
        EXECUTE format('GRANT SELECT ON schema_migrations, database_identity TO %I', grantee);
    END LOOP;

    -- Coverage, gaps and positions only through functions: each checks the fencing token.
    IF to_regrole(collector) IS NOT NULL THEN
        GRANT INSERT ON searches TO soulseek_research_collector;
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', functions, collector);
    END IF;

    IF to_regrole(archivist) IS NOT NULL THEN
        EXECUTE format('GRANT SELECT ON %s TO %I', tables, archivist);
        GRANT INSERT, UPDATE ON archives TO soulseek_research_archivist;
        GRANT UPDATE ON retention TO soulseek_research_archivist;
        EXECUTE format('GRANT USAGE ON SEQUENCE %s TO %I', pg_get_serial_sequence('searches', 'id'), archivist);
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', archiving, archivist);
        GRANT EXECUTE ON FUNCTION ensure_partition(date), ensure_partitions_ahead(), known_key_epochs()
            TO soulseek_research_archivist;
        FOR frozen IN SELECT table_name FROM archives WHERE table_name IS NOT NULL LOOP
            PERFORM grant_frozen(frozen, false);
        END LOOP;
    END IF;

    IF to_regrole(analyst) IS NOT NULL THEN
        EXECUTE format('GRANT SELECT ON %s TO %I', tables, analyst);
    END IF;
END $$;
