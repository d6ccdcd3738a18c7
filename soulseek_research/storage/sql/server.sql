SELECT
    current_setting('server_version')              AS version,
    current_setting('server_version_num')::integer AS version_number,
    current_setting('server_encoding')             AS encoding,
    current_setting('synchronous_commit')          AS synchronous_commit,
    current_setting('fsync')                       AS fsync,
    pg_is_in_recovery()                            AS standby
