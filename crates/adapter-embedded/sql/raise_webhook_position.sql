INSERT INTO webhook_position (shard, seq) VALUES (?1, ?2)
ON CONFLICT (shard) DO UPDATE SET seq = max(seq, excluded.seq)
