-- $1 shards, $2 the number after which each is read, $3 how many rows of each. One index scan per shard.
SELECT o.shard, o.seq, o.epoch, o.event_id, o.kind, o.tenant, o.occurred_at, o.trace_parent, o.payload
FROM unnest($1::smallint[], $2::bigint[]) WITH ORDINALITY AS p (shard, after, place)
CROSS JOIN LATERAL (
    SELECT * FROM outbox AS r WHERE r.shard = p.shard AND r.seq > p.after ORDER BY r.seq LIMIT $3
) AS o
ORDER BY p.place, o.seq;
