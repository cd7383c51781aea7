WITH due AS (
    SELECT s.shard, s.id FROM saga AS s JOIN outbox_shard AS o ON o.shard = s.shard AND o.home
    WHERE s.due_at <= clock_timestamp() ORDER BY s.due_at LIMIT $2 FOR UPDATE OF s SKIP LOCKED
)
UPDATE saga AS s SET due_at = clock_timestamp() + make_interval(secs => $1), claim = s.claim + 1
FROM due WHERE s.shard = due.shard AND s.id = due.id
RETURNING s.state, s.claim;
