SELECT last_seq, archived_through FROM outbox_shard WHERE shard = ?1
