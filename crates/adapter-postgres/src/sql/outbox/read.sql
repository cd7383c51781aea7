-- The rows that hold the next events of each shard, in the order of the positions and of the numbers: at most $3 events are wanted,
-- $4 is the most that a row holds. Days that are over lie in partitions that need not be looked at.
SELECT o.shard, o.seq, o.count, o.events
FROM unnest($1::smallint[], $2::bigint[]) WITH ORDINALITY AS p (shard, after, position)
JOIN outbox_history AS h ON h.shard = p.shard
CROSS JOIN LATERAL (
    SELECT * FROM outbox
    WHERE outbox.shard = p.shard AND outbox.seq > p.after AND outbox.seq < p.after + $3 + $4
      AND outbox.day >= CASE WHEN p.after >= h.closed_seq THEN h.closed_day ELSE '-infinity' END
    ORDER BY outbox.seq
    LIMIT $3
) AS o
ORDER BY p.position, o.seq;
