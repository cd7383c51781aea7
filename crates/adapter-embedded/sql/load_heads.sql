SELECT shard, last_seq, epoch FROM outbox_shard WHERE shard IN (SELECT value FROM json_each(?1))
