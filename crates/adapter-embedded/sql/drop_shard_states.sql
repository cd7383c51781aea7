DELETE FROM shard_state WHERE generation = ?1
