SELECT shard, seq, epoch, event_id, kind, tenant, occurred_at, trace_parent, seen, payload
FROM outbox
WHERE shard = ?1 AND seq > ?2
ORDER BY seq
LIMIT ?3
