UPDATE outbox_shard SET last_seq = 0 WHERE shard = ANY ($1) AND NOT home;
