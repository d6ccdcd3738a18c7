-- What is missing of a month ($1 up to and without $2).
SELECT client_id, started_at, ended_at, reason, searches, detail
FROM gaps
WHERE started_at < $2 AND ended_at >= $1
ORDER BY client_id, started_at, id
