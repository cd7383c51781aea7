SELECT state, claim FROM saga WHERE shard = ?1 ORDER BY id
