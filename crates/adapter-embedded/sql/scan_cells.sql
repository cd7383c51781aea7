SELECT scope, grain, bucket, dimension, shard, tokens, requests, denied, refunded, cost_minor_units, last_seq
FROM rollup
WHERE generation = ?1 AND (scope, grain, bucket, dimension, shard) > (?2, ?3, ?4, ?5, ?6)
ORDER BY scope, grain, bucket, dimension, shard
LIMIT ?7
