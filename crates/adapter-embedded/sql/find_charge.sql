SELECT * FROM charge WHERE shard = ?1 AND id = ?2
