UPDATE outbox_shard SET owner = NULL, lease_until = 0 WHERE owner = ?1
