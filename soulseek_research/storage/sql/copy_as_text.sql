-- A frozen table as everybody reads it.
SELECT id, timestamp, ticket, source, flags, client_id, username, query FROM public.{table}
