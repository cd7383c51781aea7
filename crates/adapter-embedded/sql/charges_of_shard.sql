SELECT * FROM charge WHERE shard = ?1 ORDER BY tenant, created_at, id
