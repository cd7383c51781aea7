DELETE FROM answer WHERE name IN (SELECT old.name FROM answer AS old WHERE old.created_at < $1 ORDER BY old.created_at LIMIT $2);
