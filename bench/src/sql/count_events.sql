SELECT sum(last_seq)::bigint FROM outbox_shard;
