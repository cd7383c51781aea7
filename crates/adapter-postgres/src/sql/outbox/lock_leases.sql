SELECT shard, owner, lease_until > clock_timestamp() AS running, fencing, published_through
FROM outbox_lease
ORDER BY shard
FOR UPDATE;
