-- Forward after a batch; back when the database has lost some since.
UPDATE segments SET
    acknowledged_position = :position,
    acknowledged_searches = CASE :position
        WHEN last_position THEN last_searches
        WHEN pruned_position THEN pruned_searches
        ELSE coalesce(:searches_until, acknowledged_searches) END,
    acknowledged_at_ms = :now_ms,
    database_id = :database_id
WHERE segment = :segment AND :position BETWEEN pruned_position AND last_position
