SELECT * FROM budget WHERE shard = ?1
