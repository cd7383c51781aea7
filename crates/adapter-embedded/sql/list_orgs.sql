SELECT id, name, created_at FROM org WHERE id > coalesce(?1, x'') ORDER BY id LIMIT ?2
