SELECT seq, payload FROM outbox WHERE shard = ?1 AND seq > ?2 ORDER BY seq
