-- Months before $1 that have a partition, or a part that is not archived yet.
SELECT to_date(substring(c.relname FROM 'searches_(\d{4}_\d{2})$'), 'YYYY_MM') AS month
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = 'public.searches'::regclass
  AND to_date(substring(c.relname FROM 'searches_(\d{4}_\d{2})$'), 'YYYY_MM') < $1
UNION
SELECT month FROM public.archives WHERE state NOT IN ('archived', 'expired') AND month < $1
ORDER BY month
