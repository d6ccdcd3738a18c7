UPDATE segments SET
    pruned_position = :until,
    pruned_searches = coalesce(:searches_until, pruned_searches),
    pruned_digest = :digest
WHERE segment = :segment
