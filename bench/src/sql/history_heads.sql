UPDATE outbox_shard SET last_seq = last_seq + $1::bigint;
