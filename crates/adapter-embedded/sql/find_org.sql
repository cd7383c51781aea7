SELECT id, name, created_at FROM org WHERE id = ?1
