SELECT coalesce(state.last_seq, 0), coalesce(state.digest, 0), coalesce(state.recorded_at, 0)
FROM json_each(?2) AS wanted
LEFT JOIN shard_state AS state ON state.generation = ?1 AND state.shard = wanted.value
ORDER BY wanted.key
