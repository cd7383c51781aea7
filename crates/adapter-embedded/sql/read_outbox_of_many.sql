SELECT
    outbox.shard, outbox.seq, outbox.epoch, outbox.event_id, outbox.kind, outbox.tenant, outbox.occurred_at, outbox.trace_parent,
    outbox.seen, outbox.payload
FROM jsonb_each(?1) AS position
-- Numbers have no gaps: a range of numbers is a limit as well.
CROSS JOIN outbox
    ON outbox.shard = position.value ->> 0
    AND outbox.seq BETWEEN (position.value ->> 1) + 1 AND (position.value ->> 1) + ?2
ORDER BY position.key, outbox.seq
