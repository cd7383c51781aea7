SELECT shard, seq FROM webhook_position ORDER BY shard
