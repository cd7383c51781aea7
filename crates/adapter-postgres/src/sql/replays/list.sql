SELECT id, version, generation, started_at_micros, document FROM replay ORDER BY generation DESC LIMIT $1
