-- The oldest segment with chunks to prune, and how far: to what was acknowledged before the cutoff, or to all that was.
SELECT segment, pruned_position, until_position FROM (
    SELECT segment, pruned_position, CASE WHEN :everything THEN acknowledged_position ELSE (
        SELECT a.position FROM acknowledgements a
        WHERE a.segment = s.segment AND a.acknowledged_at_ms <= :cutoff_ms AND a.position > s.pruned_position
        ORDER BY a.acknowledged_at_ms LIMIT 1) END AS until_position
    FROM segments s WHERE pruned_position < acknowledged_position)
WHERE until_position > pruned_position ORDER BY segment LIMIT 1
