INSERT INTO dead_letter_act (shard, log_offset, act, value)
SELECT shard, log_offset, ?3, ?4 FROM dead_letter WHERE shard = ?1 AND log_offset = ?2
