DELETE FROM acknowledgements
WHERE segment = :segment AND acknowledged_at_ms <= :cutoff_ms AND position <= :until
