-- As blobs: a damaged byte need not be UTF-8.
SELECT position, digest, search_count, heard_until_ms, CAST(searches AS BLOB), CAST(ledger AS BLOB)
FROM chunks WHERE segment = :segment AND position BETWEEN :first AND :last ORDER BY position
