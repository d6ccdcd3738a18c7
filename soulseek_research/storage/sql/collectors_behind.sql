-- The active collectors that may still hold searches of before $1: those heard of within $2 that have neither committed
-- anything of after it, nor an empty spool. Searches are committed in the order in which they were heard.
SELECT c.client_id, greatest(heard.minute, listened.until) AS until
FROM public.collectors c
LEFT JOIN LATERAL (SELECT max(m.minute) AS minute FROM public.minutes m WHERE m.client_id = c.client_id) heard ON true
LEFT JOIN LATERAL (SELECT max(v.ended_at) AS until FROM public.coverage v WHERE v.client_id = c.client_id) listened ON true
WHERE c.heartbeat_at > now() - $2::interval
  AND (greatest(heard.minute, listened.until) >= $1::timestamptz) IS NOT TRUE
  AND (c.heartbeat_at >= $1::timestamptz AND (c.status -> 'spool' ->> 'searches')::bigint = 0) IS NOT TRUE
ORDER BY c.client_id
