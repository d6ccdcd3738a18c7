-- Unless it was just taken back that the database has it.
UPDATE segments SET
    pruned_position = :until,
    pruned_searches = coalesce(:searches_until, pruned_searches),
    pruned_digest = :digest
WHERE segment = :segment AND acknowledged_position >= :until
