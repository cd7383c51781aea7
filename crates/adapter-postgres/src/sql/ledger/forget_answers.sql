DELETE FROM idempotency
WHERE (scope, key) IN (SELECT old.scope, old.key FROM idempotency AS old WHERE old.created_at < $1 ORDER BY old.created_at LIMIT $2);
