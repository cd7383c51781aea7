SELECT i.name FROM idempotency AS i JOIN moving AS m ON m.shard = i.shard WHERE i.lease_until IS NOT NULL;
