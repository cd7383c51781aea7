SELECT c.expires_at, c.id
FROM charge AS c JOIN outbox_shard AS s ON s.shard = c.shard AND s.home
WHERE c.status = 'HELD' AND c.expires_at <= $1
ORDER BY c.expires_at, c.id
LIMIT $2;
