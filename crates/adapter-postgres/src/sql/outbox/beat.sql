INSERT INTO outbox_owner (owner, alive_until) VALUES ($1, clock_timestamp() + make_interval(secs => $2))
ON CONFLICT (owner) DO UPDATE SET alive_until = excluded.alive_until;
