SELECT coalesce(sum(last_position - acknowledged_position), 0), coalesce(sum(last_searches - acknowledged_searches), 0)
FROM segments
