-- Until when a neighbour of a damaged chunk heard, the nearest first.
SELECT heard_until_ms FROM chunks
WHERE segment = :segment AND position BETWEEN :position - 100 AND :position + 100 AND position <> :position
ORDER BY abs(position - :position), position LIMIT 1
