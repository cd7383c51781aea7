-- What was stored since $1, and what is or was open: a completed answer never changes.
INSERT INTO touched_answer
SELECT i.name FROM idempotency AS i JOIN moving AS m ON m.shard = i.shard WHERE i.created_at >= $1::timestamptz
UNION
SELECT i.name FROM idempotency AS i JOIN moving AS m ON m.shard = i.shard WHERE i.lease_until IS NOT NULL
UNION
SELECT unnest($2::uuid[]);
