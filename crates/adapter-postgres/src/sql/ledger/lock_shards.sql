-- Those that are at home here.
SELECT shard, last_seq, epoch, budgets FROM outbox_shard WHERE shard = ANY ($1) AND home ORDER BY shard FOR UPDATE;
