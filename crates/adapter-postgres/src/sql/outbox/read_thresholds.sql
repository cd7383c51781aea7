-- The kind is a literal: the index holds only such rows.
SELECT o.shard, o.seq, o.epoch, o.event_id, o.kind, o.tenant, o.occurred_at, o.trace_parent, o.payload
FROM unnest($1::smallint[], $2::bigint[]) WITH ORDINALITY AS p (shard, after, position)
CROSS JOIN LATERAL (
    SELECT * FROM outbox
    WHERE outbox.kind = 'THRESHOLD_REACHED' AND outbox.shard = p.shard AND outbox.seq > p.after
    ORDER BY outbox.seq LIMIT $3
) AS o
ORDER BY p.position, o.seq;
