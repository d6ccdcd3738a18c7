INSERT INTO chunks (segment, position, search_count, heard_until_ms, digest, ledger, searches)
VALUES (?, ?, ?, ?, ?, CAST(? AS TEXT), CAST(? AS TEXT))
