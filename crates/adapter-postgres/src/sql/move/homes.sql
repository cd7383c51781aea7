SELECT shard, last_seq, home FROM outbox_shard ORDER BY shard;
