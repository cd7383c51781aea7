SELECT bucket, dimension, shard, tokens, requests, denied, refunded, cost_minor_units, last_seq
FROM rollup
WHERE generation = ?1
    AND scope = ?2
    AND grain = ?3
    AND bucket >= ?4
    AND bucket < ?5
    AND substr(dimension, 1, length(?6)) = ?6
ORDER BY bucket, dimension, shard
