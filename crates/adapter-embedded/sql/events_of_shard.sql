SELECT seq, payload FROM outbox WHERE shard = ?1 ORDER BY seq
