UPDATE outbox_lease SET owner = NULL, lease_until = '-infinity' WHERE owner = $1 AND shard = ANY ($2);
