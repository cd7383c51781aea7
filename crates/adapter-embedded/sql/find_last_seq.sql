SELECT last_seq FROM outbox_shard WHERE shard = ?1
