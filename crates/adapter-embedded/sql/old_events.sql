-- Of each shard whose oldest event was recorded before ?1 the first and the last number of the run that was, at most ?2 events.
SELECT shard, archived_through + 1, (
    SELECT coalesce(min(seq) FILTER (WHERE recorded_at >= ?1) - 1, max(seq))
    FROM (
        SELECT outbox.seq, outbox.recorded_at FROM outbox
        WHERE outbox.shard = outbox_shard.shard AND outbox.seq > outbox_shard.archived_through
        ORDER BY outbox.seq LIMIT ?2
    )
)
FROM outbox_shard
WHERE (
    SELECT outbox.recorded_at FROM outbox
    WHERE outbox.shard = outbox_shard.shard AND outbox.seq > outbox_shard.archived_through
    ORDER BY outbox.seq LIMIT 1
) < ?1
ORDER BY shard
