UPDATE outbox_shard
SET published_through = max(published_through, mark.through)
FROM (
    -- One row per lease, should a lease be marked twice.
    SELECT value ->> 'shard' AS shard, value ->> 'fencing' AS fencing, max(value ->> 'through') AS through
    FROM jsonb_each(?1)
    GROUP BY 1, 2
) AS mark
WHERE outbox_shard.shard = mark.shard AND outbox_shard.fencing = mark.fencing
RETURNING outbox_shard.shard, outbox_shard.fencing
