INSERT INTO generation (id, started_at_micros, live) VALUES (?1, ?2, 0) ON CONFLICT (id) DO NOTHING
