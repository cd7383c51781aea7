SELECT i.scope, i.key, i.shard, i.fingerprint, i.charge_id, i.lease_until, i.context, i.outcome
FROM unnest($1::text[], $2::text[]) AS wanted (scope, key)
JOIN idempotency AS i ON i.scope = wanted.scope AND i.key = wanted.key
WHERE i.lease_until IS NULL;
