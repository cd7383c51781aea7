INSERT INTO generation (id, started_at_micros, live) VALUES (1, ?1, 1) ON CONFLICT (id) DO NOTHING
