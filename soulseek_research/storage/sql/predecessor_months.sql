-- How many rows the predecessor has of each month (UTC), and how many of no time that can be. The name of its table is
-- put in place of `predecessor_table`.
SELECT counted.time, counted.month, count(*) AS rows
FROM (
    SELECT found.time, CASE WHEN found.time = 'sound' THEN date_trunc('month', p.at AT TIME ZONE 'UTC')::date END AS month
    FROM (SELECT "timestamp" AS at FROM predecessor_table) p,
         LATERAL (SELECT CASE WHEN p.at IS NULL THEN 'missing'
                              WHEN p.at < $1::timestamptz THEN 'early'
                              WHEN p.at > $2::timestamptz THEN 'late'
                              ELSE 'sound' END AS time) found
) counted
GROUP BY counted.time, counted.month
ORDER BY counted.month
