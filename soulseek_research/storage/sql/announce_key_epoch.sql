INSERT INTO public.key_epochs (key_id, fingerprint, algorithm, valid_from) VALUES ($1, $2, $3, $4)
