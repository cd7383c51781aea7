INSERT INTO outbox_owner (owner, alive_until) VALUES (?1, ?2)
ON CONFLICT (owner) DO UPDATE SET alive_until = excluded.alive_until
