SELECT outbox.shard, outbox.seq, outbox.recorded_at, outbox.trace_parent, outbox.payload
FROM jsonb_each(?1) AS wanted
CROSS JOIN outbox
    ON outbox.shard = wanted.value ->> 'shard'
    AND outbox.seq BETWEEN wanted.value ->> 'first' AND wanted.value ->> 'last'
ORDER BY outbox.shard, outbox.seq
