SELECT segment_id, opened_at_ms, last_position, acknowledged_position, database_id, pruned_position
FROM segments ORDER BY segment
