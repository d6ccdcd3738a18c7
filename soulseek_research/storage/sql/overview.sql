-- What `status` shows of each collector. It reads `minutes` and `coverage`, never `searches`.
-- kept_minute: the last sixty seconds, for which the minute that has partly left them counts in proportion.
SELECT
    c.client_id,
    c.claimed_at,
    c.heartbeat_at,
    c.last_batch_at,
    c.status,
    c.heartbeat_at > now() - $1::interval
        AND s.stretch_id IS NOT NULL AND s.end_reason IS NULL AS listening,
    coalesce(m.kept_minute, 0) AS kept_minute,
    coalesce(m.kept_hour, 0)   AS kept_hour,
    coalesce(m.kept_day, 0)    AS kept_day,
    coalesce(g.gaps, 0)        AS gaps,
    coalesce(g.missing, 0)     AS missing,
    s.started_at, s.ended_at, s.end_reason, s.role, s.branch_level, s.branch_root,
    s.kept, s.duplicates, s.refused, s.dropped, s.reasons,
    s.clock_offset_ms, s.clock_round_trip_ms, s.clock_synchronised
FROM public.collectors c
LEFT JOIN LATERAL (
    SELECT * FROM public.coverage WHERE client_id = c.client_id ORDER BY started_at DESC LIMIT 1
) s ON true
LEFT JOIN LATERAL (
    SELECT round(sum(kept * least(1, extract(epoch FROM minute + interval '2 minutes' - now()) / 60))
                 FILTER (WHERE minute > now() - interval '2 minutes'))::bigint AS kept_minute,
           sum(kept) FILTER (WHERE minute > now() - interval '1 hour')         AS kept_hour,
           sum(kept)                                                          AS kept_day
    FROM public.minutes WHERE client_id = c.client_id AND minute > now() - interval '1 day'
) m ON true
LEFT JOIN LATERAL (
    SELECT count(*) AS gaps, sum(searches)::bigint AS missing FROM public.gaps WHERE client_id = c.client_id
) g ON true
ORDER BY c.client_id
