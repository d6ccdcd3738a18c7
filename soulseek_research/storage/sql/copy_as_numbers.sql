-- A frozen table for Parquet: times as milliseconds since 1970, which cost PostgreSQL and us less than their texts.
SELECT id, (date_part('epoch', timestamp) * 1000)::bigint, ticket, source, flags, client_id, username, query
FROM public.{table}
