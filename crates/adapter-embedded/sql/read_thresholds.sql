-- The kind is a literal: the index holds only such rows.
SELECT shard, seq, epoch, event_id, kind, tenant, occurred_at, trace_parent, seen, payload
FROM (
    SELECT position.key AS turn, outbox.*, row_number() OVER (PARTITION BY outbox.shard ORDER BY outbox.seq) AS place
    FROM json_each(?1) AS position
    CROSS JOIN outbox
        ON outbox.kind = 'THRESHOLD_REACHED' AND outbox.shard = position.value ->> 0 AND outbox.seq > position.value ->> 1
)
WHERE place <= ?2
ORDER BY turn, seq
