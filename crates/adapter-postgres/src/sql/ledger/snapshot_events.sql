SELECT seq, count, events FROM outbox WHERE shard = $1 ORDER BY seq;
