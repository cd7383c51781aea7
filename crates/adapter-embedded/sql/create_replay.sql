INSERT INTO replay (id, version, started_at_micros, running, document) VALUES (?1, 1, ?2, 1, ?3)
-- Another one runs.
ON CONFLICT DO NOTHING
RETURNING generation
