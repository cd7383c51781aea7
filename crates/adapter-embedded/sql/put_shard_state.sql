INSERT INTO shard_state (generation, shard, last_seq, digest, recorded_at) VALUES (?1, ?2, ?3, ?4, ?5)
ON CONFLICT (generation, shard) DO UPDATE SET
    last_seq = excluded.last_seq, digest = excluded.digest, recorded_at = excluded.recorded_at
WHERE excluded.last_seq > last_seq
