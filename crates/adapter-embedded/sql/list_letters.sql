SELECT shard, log_offset, seq, reason, value, buried_at, last_buried_at FROM dead_letter ORDER BY buried_at, shard, log_offset
