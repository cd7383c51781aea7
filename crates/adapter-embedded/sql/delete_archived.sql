DELETE FROM outbox
WHERE (shard, seq) IN (
    SELECT outbox.shard, outbox.seq FROM outbox_shard
    CROSS JOIN outbox ON outbox.shard = outbox_shard.shard AND outbox.seq <= outbox_shard.archived_through
    LIMIT ?1
)
