-- What is missing, by collector and reason: the latest first.
SELECT client_id AS client, reason, count(*) AS gaps, sum(searches)::bigint AS searches, min(started_at) AS first,
       max(ended_at) AS last, (array_agg(detail ORDER BY ended_at DESC))[1] AS detail
FROM gaps
GROUP BY client_id, reason
ORDER BY last DESC
