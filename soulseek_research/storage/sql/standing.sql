-- What stands in the way of a migration, or under it.
SELECT
    (SELECT c.relkind::text FROM pg_class c WHERE c.oid = to_regclass('public.searches')) AS searches_kind,
    (SELECT pg_get_userbyid(c.relowner) FROM pg_class c
     WHERE c.oid = to_regclass('public.schema_migrations'))                               AS owner,
    current_user                                                                          AS login,
    current_database()                                                                    AS database
