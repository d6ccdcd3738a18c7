-- When each collector listened in a month ($1 up to and without $2): whole stretches, those across its borders included.
SELECT client_id, started_at, ended_at, role, branch_level, kept, duplicates, refused, dropped, end_reason
FROM coverage
WHERE started_at < $2 AND ended_at >= $1
ORDER BY client_id, started_at, stretch_id
