SELECT shard, last_seq, epoch, budgets FROM outbox_shard WHERE shard = ANY ($1) ORDER BY shard FOR UPDATE;
