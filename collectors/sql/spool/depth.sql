SELECT coalesce(sum(last_position - acknowledged_position), 0), coalesce(sum(last_searches - acknowledged_searches), 0),
    (SELECT c.heard_until_ms
     FROM segments s JOIN chunks c ON c.segment = s.segment AND c.position = s.acknowledged_position + 1
     WHERE s.last_position > s.acknowledged_position ORDER BY s.segment LIMIT 1)
FROM segments
