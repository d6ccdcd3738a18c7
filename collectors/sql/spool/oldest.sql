-- Until when the first chunk that waits had heard.
SELECT c.heard_until_ms FROM segments s JOIN chunks c ON c.segment = s.segment AND c.position = s.acknowledged_position + 1
WHERE s.last_position > s.acknowledged_position ORDER BY s.segment LIMIT 1
