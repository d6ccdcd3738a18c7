INSERT INTO chunks (segment, position, search_count, searches_until, heard_until_ms, digest, ledger, searches)
VALUES (:segment, :position, :search_count, :searches_until, :heard_until_ms, :digest,
    CAST(:ledger_text AS TEXT), :searches)
