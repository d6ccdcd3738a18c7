-- Forward after a batch; back when the database has lost some since.
UPDATE segments SET
    acknowledged_searches = CASE WHEN :position = last_position THEN last_searches ELSE acknowledged_searches
        + (SELECT coalesce(sum(c.search_count), 0) FROM chunks c WHERE c.segment = segments.segment
           AND c.position > segments.acknowledged_position AND c.position <= :position)
        - (SELECT coalesce(sum(c.search_count), 0) FROM chunks c WHERE c.segment = segments.segment
           AND c.position > :position AND c.position <= segments.acknowledged_position) END,
    acknowledged_position = :position,
    acknowledged_at_ms = :now_ms,
    database_id = :database_id
WHERE segment = :segment
