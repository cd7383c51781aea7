SELECT id, version, generation, started_at_micros, document FROM replay WHERE id = ?1
