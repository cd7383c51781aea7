SELECT i.name, i.shard, i.fingerprint, i.charge_id, i.lease_until, i.context, i.outcome
FROM unnest($1::uuid[]) AS wanted (name)
JOIN idempotency AS i ON i.name = wanted.name;
