-- Rows in which a threshold was reached; the index holds only such rows.
SELECT o.shard, o.seq, o.count, o.events
FROM unnest($1::smallint[], $2::bigint[]) WITH ORDINALITY AS p (shard, after, position)
CROSS JOIN LATERAL (
    SELECT * FROM outbox
    WHERE outbox.thresholds AND outbox.shard = p.shard AND outbox.seq > p.after
    ORDER BY outbox.seq LIMIT $3
) AS o
ORDER BY p.position, o.seq;
