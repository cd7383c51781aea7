INSERT INTO installation (only, pepper, revision) VALUES (1, ?1, 0)
ON CONFLICT (only) DO UPDATE SET pepper = coalesce(pepper, excluded.pepper)
