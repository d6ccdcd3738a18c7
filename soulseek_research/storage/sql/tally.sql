-- What archive/tally.py counts, by PostgreSQL itself: nothing of ours has read these rows.
SELECT count(*)                                                        AS rows,
       (date_part('epoch', min(timestamp)) * 1000)::bigint             AS first_timestamp,
       (date_part('epoch', max(timestamp)) * 1000)::bigint             AS last_timestamp,
       coalesce(sum(id), 0)                                            AS ids,
       coalesce(sum((date_part('epoch', timestamp) * 1000)::bigint), 0) AS timestamps,
       coalesce(sum(ticket), 0)                                        AS tickets,
       count(*) - count(ticket)                                        AS without_ticket,
       coalesce(sum(source), 0)                                        AS sources,
       coalesce(sum(flags), 0)                                         AS flags,
       coalesce(sum(octet_length(client_id)), 0)                       AS client_id_bytes,
       coalesce(sum(octet_length(username)), 0)                        AS username_bytes,
       coalesce(sum(octet_length(query)), 0)                           AS query_bytes
FROM public.{table}
