-- A part at a time, so that other writers get their turn.
DELETE FROM rollup
WHERE (generation, scope, grain, bucket, dimension, shard) IN (
    SELECT generation, scope, grain, bucket, dimension, shard FROM rollup WHERE generation = ?1 LIMIT ?2
)
