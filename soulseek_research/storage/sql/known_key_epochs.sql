SELECT key_id, fingerprint, algorithm, CASE WHEN isfinite(valid_from) THEN valid_from END AS valid_from
FROM public.known_key_epochs()
