INSERT INTO webhook_position (shard, seq) SELECT * FROM unnest($1::smallint[], $2::bigint[]) AS n (shard, seq) ORDER BY n.shard
ON CONFLICT (shard) DO UPDATE SET seq = greatest(webhook_position.seq, excluded.seq);
