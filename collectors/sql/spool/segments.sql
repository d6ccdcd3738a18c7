SELECT segment_id, database_id, opened_at_ms, last_position, acknowledged_position, pruned_position
FROM segments ORDER BY segment
