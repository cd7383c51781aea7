SELECT seq, count, events FROM outbox WHERE shard = $1 AND seq > $2 ORDER BY seq;
