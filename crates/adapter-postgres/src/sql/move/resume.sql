UPDATE outbox_shard SET home = true WHERE shard = ANY ($1);
