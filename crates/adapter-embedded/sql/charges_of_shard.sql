SELECT * FROM charge WHERE shard = ?1 ORDER BY id
