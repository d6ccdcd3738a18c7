UPDATE segments SET
    pruned_position = :until,
    pruned_digest = (SELECT digest FROM chunks c WHERE c.segment = :segment AND c.position = :until)
WHERE segment = :segment
