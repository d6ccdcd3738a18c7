-- What a collector may do beside inserting searches. Each function runs as the owner of the schema and names every
-- table with its schema; on its search path stands nothing that others could write to, pg_temp last. Who may call
-- which: sql/grants.sql.

-- Makes the partition of a month (any day of it, UTC) unless it is there; says whether it did. The table is made alone
-- and then attached: CREATE TABLE ... PARTITION OF would lock the parent against every writer, ATTACH does not.
-- Raises 22008 for a month that cannot be: no spool is older than a year, no clock honest that is two months ahead.
CREATE FUNCTION ensure_partition(month date) RETURNS boolean
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
    EXECUTE format('CREATE TABLE public.%I (LIKE public.searches INCLUDING DEFAULTS INCLUDING CONSTRAINTS)',
                   partition_name);
    EXECUTE format('ALTER TABLE public.searches ATTACH PARTITION public.%I FOR VALUES FROM (%L) TO (%L)',
                   partition_name,
                   to_char(first_day, 'YYYY-MM-DD') || ' 00:00:00+00',
                   to_char(first_day + interval '1 month', 'YYYY-MM-DD') || ' 00:00:00+00');
    RETURN true;
END $$;

-- Makes the partitions of this month and the next; says which were missing. Called whenever a collector starts and now
-- and then while it runs, so that at midnight of the first nobody waits for one.
CREATE FUNCTION ensure_partitions_ahead() RETURNS SETOF date
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
    SELECT m.first_day
    FROM (VALUES (date_trunc('month', localtimestamp)::date),
                 ((date_trunc('month', localtimestamp) + interval '1 month')::date)) AS m (first_day)
    WHERE public.ensure_partition(m.first_day)
$$;

-- Takes a client id: a new fencing token, after which no batch of an older holder can commit (it waits for the one
-- that is under way, because both lock the collector's row).
CREATE FUNCTION claim_collector(client text) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO public.collectors AS c (client_id, fencing_token) VALUES (client, 1)
    ON CONFLICT (client_id) DO UPDATE
        SET fencing_token = c.fencing_token + 1, claimed_at = now(), heartbeat_at = now()
    RETURNING fencing_token
$$;

-- Locks the collector's row for this transaction, or raises 55000 when somebody has claimed the client id since.
CREATE FUNCTION check_fence(client text, token bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM FROM public.collectors WHERE client_id = client AND fencing_token = token FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'client id "%" has been claimed by another collector', client
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
END $$;

-- How far the given segments have been committed here. A segment that is not returned is unknown here.
CREATE FUNCTION segment_positions(client text, segments uuid[])
RETURNS TABLE (segment_id uuid, committed_position bigint, committed_digest bytea, ended text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT s.segment_id, s.committed_position, s.committed_digest, s.ended
    FROM public.spool_segments s WHERE s.client_id = client AND s.segment_id = ANY (segments)
$$;

-- Writes stretches, each replacing what is known of it: a list of objects as collectors/coverage.py makes them.
CREATE FUNCTION record_coverage(client text, token bigint, segment uuid, stretches jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
BEGIN
    PERFORM public.check_fence(client, token);
    INSERT INTO public.coverage AS c (
        stretch_id, client_id, segment_id, started_at, ended_at, end_reason, role, branch_level, branch_root,
        kept, duplicates, refused, dropped, reasons, clock_offset_ms, clock_round_trip_ms, clock_synchronised)
    SELECT x.stretch_id, client, segment, x.started_at, x.ended_at, x.end_reason, x.role, x.branch_level,
           x.branch_root, coalesce(x.kept, 0), coalesce(x.duplicates, 0), coalesce(x.refused, 0), coalesce(x.dropped, 0),
           coalesce(x.reasons, '{}'), x.clock_offset_ms, x.clock_round_trip_ms, x.clock_synchronised
    FROM jsonb_to_recordset(stretches) AS x (
        stretch_id uuid, started_at timestamptz, ended_at timestamptz, end_reason text, role text,
        branch_level integer, branch_root text, kept bigint, duplicates bigint, refused bigint, dropped bigint,
        reasons jsonb, clock_offset_ms double precision, clock_round_trip_ms double precision,
        clock_synchronised boolean)
    ON CONFLICT (stretch_id) DO UPDATE SET
        segment_id = excluded.segment_id, ended_at = excluded.ended_at, end_reason = excluded.end_reason, kept = excluded.kept,
        duplicates = excluded.duplicates, refused = excluded.refused, dropped = excluded.dropped,
        reasons = excluded.reasons, clock_offset_ms = excluded.clock_offset_ms,
        clock_round_trip_ms = excluded.clock_round_trip_ms, clock_synchronised = excluded.clock_synchronised
    WHERE c.client_id = client;
END $$;

-- Moves a segment's committed position, in the transaction that stores the rows of the chunks between. Raises 40001
-- unless the position is where the caller believes it to be: then somebody is wrong about what is stored.
--   stretches:      see record_coverage
--   kept_by_minute: {"<minute, ISO 8601>": searches}
CREATE FUNCTION advance_segment(
    client text, token bigint, segment uuid, opened timestamptz,
    from_position bigint, to_position bigint, to_digest bytea, spooled bigint,
    stretches jsonb, kept_by_minute jsonb, collector_status jsonb
) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
BEGIN
    -- It may have been switched off since the connection was made, and then "committed" would not mean "kept".
    IF current_setting('synchronous_commit') = 'off' THEN
        RAISE EXCEPTION 'synchronous_commit is off: a crash of the server would lose searches that it said were committed'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM public.check_fence(client, token);
    INSERT INTO public.spool_segments (segment_id, client_id, fencing_token, opened_at)
        VALUES (segment, client, token, opened) ON CONFLICT (segment_id) DO NOTHING;
    UPDATE public.spool_segments s
       SET committed_position = to_position, committed_digest = to_digest, committed_at = now(),
           fencing_token = token, spooled_position = greatest(s.spooled_position, spooled), ended = NULL
     WHERE s.segment_id = segment AND s.client_id = client AND s.committed_position = from_position;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'segment % is not committed to position % here', segment, from_position
            USING ERRCODE = 'serialization_failure';
    END IF;
    PERFORM public.record_coverage(client, token, segment, stretches);
    INSERT INTO public.minutes AS m (client_id, minute, kept)
        SELECT client, k.key::timestamptz, k.value::integer FROM jsonb_each_text(kept_by_minute) k
    ON CONFLICT (client_id, minute) DO UPDATE SET kept = m.kept + excluded.kept;
    UPDATE public.collectors
       SET last_batch_at = now(), heartbeat_at = now(), status = coalesce(collector_status, status)
     WHERE client_id = client;
END $$;

-- Writes down that searches are missing, and why.
CREATE FUNCTION record_gap(
    client text, token bigint, segment uuid, gap_started timestamptz, gap_ended timestamptz,
    why text, missing bigint, explanation text
) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM public.check_fence(client, token);
    INSERT INTO public.gaps (client_id, segment_id, started_at, ended_at, reason, searches, detail)
        VALUES (client, segment, gap_started, gap_ended, why, missing, explanation);
END $$;

-- Writes down the gaps that a collector saw itself, each replacing what is known of it: a gap may grow for hours.
CREATE FUNCTION record_gaps(client text, token bigint, segment uuid, seen jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
BEGIN
    PERFORM public.check_fence(client, token);
    INSERT INTO public.gaps AS g (gap_id, client_id, segment_id, started_at, ended_at, reason, searches)
    SELECT x.gap_id, client, segment, x.started_at, x.ended_at, x.reason, x.searches
    FROM jsonb_to_recordset(seen) AS x (
        gap_id uuid, started_at timestamptz, ended_at timestamptz, reason text, searches bigint)
    ON CONFLICT (gap_id) DO UPDATE SET ended_at = excluded.ended_at, searches = excluded.searches
    WHERE g.client_id = client;
END $$;

-- Ends the segments of this client id that its spool no longer needs ("drained") or that can never be completed
-- ("lost", "diverged").
CREATE FUNCTION end_segments(client text, token bigint, segments uuid[], how text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM public.check_fence(client, token);
    UPDATE public.spool_segments s SET ended = how WHERE s.client_id = client AND s.segment_id = ANY (segments);
END $$;

-- The segments of this client id that are still open here and that the spool does not hold: it was replaced. Each comes
-- with how much is missing, as far as its last batch told.
CREATE FUNCTION missing_segments(client text, held uuid[])
RETURNS TABLE (segment_id uuid, committed_at timestamptz, committed_position bigint, spooled_position bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT s.segment_id, coalesce(s.committed_at, s.opened_at), s.committed_position, s.spooled_position
    FROM public.spool_segments s
    WHERE s.client_id = client AND s.ended IS NULL AND NOT s.segment_id = ANY (held)
$$;

-- Closes the open stretches of this client id: after a kill they still stand, truthful to the last batch.
CREATE FUNCTION close_open_stretches(client text, token bigint, except_segment uuid, why text) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    closed integer;
BEGIN
    PERFORM public.check_fence(client, token);
    UPDATE public.coverage c SET end_reason = why
     WHERE c.client_id = client AND c.end_reason IS NULL AND c.segment_id IS DISTINCT FROM except_segment;
    GET DIAGNOSTICS closed = ROW_COUNT;
    RETURN closed;
END $$;

-- What the collector says of itself between batches.
CREATE FUNCTION report_status(client text, token bigint, collector_status jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM public.check_fence(client, token);
    UPDATE public.collectors SET heartbeat_at = now(), status = collector_status WHERE client_id = client;
END $$;

CREATE FUNCTION known_key_epochs()
RETURNS TABLE (key_id text, fingerprint text, algorithm text, valid_from timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT e.key_id, e.fingerprint, e.algorithm, e.valid_from FROM public.key_epochs e ORDER BY e.valid_from
$$;

-- Registers the first key there is; with one registered already it does nothing. Only the owner announces later ones.
-- It counts from the beginning of time: there is nothing before it.
CREATE FUNCTION register_first_key(key text, key_fingerprint text, key_algorithm text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    LOCK TABLE public.key_epochs IN SHARE ROW EXCLUSIVE MODE;
    IF EXISTS (SELECT FROM public.key_epochs) THEN
        RETURN false;
    END IF;
    INSERT INTO public.key_epochs (key_id, fingerprint, algorithm, valid_from)
        VALUES (key, key_fingerprint, key_algorithm, '-infinity');
    RETURN true;
END $$;
