INSERT INTO idempotency (scope, key, fingerprint, lease_until, charge_id, context, outcome, created_at)
SELECT
    value ->> 'scope', value ->> 'key', unhex(value ->> 'fingerprint'), value ->> 'lease_until',
    unhex(value ->> 'charge_id', '-'), unhex(value ->> 'context'), value ->> 'outcome', value ->> 'created_at'
FROM jsonb_each(?1)
-- WHERE true: otherwise ON would be read as part of a join.
WHERE true
ON CONFLICT (scope, key) DO UPDATE SET
    lease_until = excluded.lease_until, context = excluded.context, outcome = excluded.outcome
