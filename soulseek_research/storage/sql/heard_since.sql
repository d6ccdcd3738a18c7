-- What each collector heard and kept since a moment, and for how long it truly listened.
SELECT s.client_id AS region, s.kept, coalesce(c.duplicates, 0) AS heard_twice, coalesce(c.refused, 0) AS refused,
       coalesce(c.dropped, 0) AS dropped, s.people, s.queries AS different_queries,
       coalesce(c.seconds, 0) AS seconds_listened
FROM (
    SELECT client_id, count(*) AS kept, count(DISTINCT username) AS people, count(DISTINCT lower(query)) AS queries
    FROM searches WHERE timestamp >= $1 GROUP BY client_id
) s
LEFT JOIN (
    SELECT client_id, sum(duplicates)::bigint AS duplicates, sum(refused)::bigint AS refused,
           sum(dropped)::bigint AS dropped, extract(epoch FROM sum(ended_at - started_at))::float8 AS seconds
    FROM coverage WHERE started_at >= $1 GROUP BY client_id
) c USING (client_id)
ORDER BY client_id
