SELECT shard, log_offset, act, value FROM dead_letter_act ORDER BY id
