-- Segments that have ended, of which the database has everything and the spool nothing any more.
SELECT segment FROM segments
WHERE segment IS NOT :current AND pruned_position = last_position
    AND max(opened_at_ms, coalesce(acknowledged_at_ms, 0)) <= :cutoff_ms
LIMIT 100
