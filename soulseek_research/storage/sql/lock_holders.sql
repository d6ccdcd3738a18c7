-- Who else holds a lock on the searches of some month. Of other logins' sessions PostgreSQL tells an archivist no more
-- than their process and user.
SELECT string_agg(DISTINCT format('process %s of %s%s', a.pid, coalesce(a.usename, 'PostgreSQL itself'), ', since ' || to_char(a.xact_start, 'YYYY-MM-DD HH24:MI:SSOF')), '; ')
FROM pg_locks l
JOIN pg_class c ON c.oid = l.relation
JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.granted AND l.pid <> pg_backend_pid() AND (a.xact_start < now() - interval '1 second') IS NOT FALSE
  AND c.relname ~ '^(searches|((searches|sealed|restored)_\d{4}_\d{2}.*))$'
