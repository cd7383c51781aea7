INSERT INTO replay (id, running, document) VALUES ($1, true, $2)
-- Another one runs.
ON CONFLICT (running) WHERE running DO NOTHING
RETURNING generation, started_at_micros
