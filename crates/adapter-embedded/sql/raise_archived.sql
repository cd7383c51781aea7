UPDATE outbox_shard SET archived_through = raised.value ->> 'through'
FROM jsonb_each(?1) AS raised
WHERE outbox_shard.shard = raised.value ->> 'shard' AND outbox_shard.archived_through = raised.value ->> 'before'
