-- Enters a part that was found as a file; nothing when the catalogue knows that part by now.
INSERT INTO archives (
    month, part, state, deleted, format, file_path, places, record_count, file_size, sha256, checksum, tally,
    first_timestamp, last_timestamp, key_ids, usernames, table_size, column_sizes, software,
    sealed_at, verified_at, archived_at)
VALUES ($1, $2, 'archived', true, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20)
ON CONFLICT (month, part) DO NOTHING
