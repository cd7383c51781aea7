SELECT stored.scope, stored.key, stored.fingerprint, stored.lease_until, stored.charge_id, stored.context, stored.outcome
FROM jsonb_each(?1) AS wanted
CROSS JOIN idempotency AS stored
    ON stored.scope = wanted.value ->> 'scope' AND stored.key = wanted.value ->> 'key'
