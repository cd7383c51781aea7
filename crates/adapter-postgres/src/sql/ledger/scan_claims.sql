SELECT i.name, i.day, i.shard, i.charge_id, i.outcome
FROM idempotency AS i
JOIN outbox_shard AS s ON s.shard = i.shard AND s.home
WHERE (i.name, i.day) > ($1, $2) AND i.charge_id IS NOT NULL
ORDER BY i.name, i.day
LIMIT $3;
