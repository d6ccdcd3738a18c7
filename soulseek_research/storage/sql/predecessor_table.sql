-- What a table is, its name as it has to be written, and its columns with their types: of a database that need not be
-- ours.
SELECT c.relkind::text AS kind,
       c.oid::regclass::text AS quoted,
       (SELECT json_object_agg(a.attname, format_type(a.atttypid, NULL))
        FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns
FROM pg_class c
WHERE c.oid = to_regclass($1)
