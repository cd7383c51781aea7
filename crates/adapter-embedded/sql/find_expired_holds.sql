SELECT id FROM charge WHERE status = 'HELD' AND expires_at <= ?1 ORDER BY expires_at, id LIMIT ?2
