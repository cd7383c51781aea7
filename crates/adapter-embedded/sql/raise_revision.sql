INSERT INTO installation (only, revision) VALUES (1, 1)
ON CONFLICT (only) DO UPDATE SET revision = revision + 1
