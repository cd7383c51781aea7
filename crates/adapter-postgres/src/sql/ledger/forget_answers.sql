DELETE FROM idempotency
WHERE name IN (SELECT old.name FROM idempotency AS old WHERE old.created_at < $1 ORDER BY old.created_at LIMIT $2);
