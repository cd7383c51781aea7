SELECT s.shard, s.last_seq, s.epoch, s.budgets, h.closed_day, h.closed_seq, h.archived_through
FROM outbox_shard AS s JOIN outbox_history AS h ON h.shard = s.shard JOIN moving AS m ON m.shard = s.shard
ORDER BY s.shard;
