SELECT id, shard, seq, epoch, event_id, kind, tenant, occurred_at, trace_parent, payload
FROM plain_outbox WHERE id > $1 ORDER BY id LIMIT $2;
