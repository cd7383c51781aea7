SELECT shard, last_seq, published_through, archived_through FROM outbox_shard ORDER BY shard
