UPDATE outbox_shard SET last_seq = head.value ->> 'last_seq'
FROM jsonb_each(?1) AS head
WHERE outbox_shard.shard = head.value ->> 'shard'
