SELECT shard, owner, lease_until, fencing, published_through FROM outbox_shard ORDER BY shard
