INSERT INTO pool_period (payer_kind, tenant, provider, starts_at, shard, ends_at, granted, settled, held)
SELECT
    value ->> 'payer_kind', unhex(value ->> 'tenant', '-'), value ->> 'provider', value ->> 'starts_at', value ->> 'shard',
    value ->> 'ends_at', value ->> 'granted', value ->> 'settled', value ->> 'held'
FROM jsonb_each(?1)
-- WHERE true: otherwise ON would be read as part of a join.
WHERE true
ON CONFLICT (payer_kind, tenant, provider, starts_at) DO UPDATE SET
    ends_at = excluded.ends_at, granted = excluded.granted, settled = excluded.settled, held = excluded.held
