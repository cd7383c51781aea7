-- An array, because the server then looks each row up by its key; `IN (SELECT …)` is slower.
DELETE FROM plain_queue WHERE id = ANY (ARRAY(SELECT id FROM plain_queue ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED))
RETURNING id, shard, seq, epoch, event_id, kind, tenant, occurred_at, trace_parent, payload;
