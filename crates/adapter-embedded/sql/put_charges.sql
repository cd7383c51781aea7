INSERT INTO charge (
    shard, id, payer_kind, tenant, user_id, key_id, provider, model, metadata, status, held, settled, refunded, debt,
    from_allowance, from_purchased, cost, currency, period_start, late, created_at, settled_at, expires_at, seq
)
SELECT
    value ->> 'shard', unhex(value ->> 'id', '-'), value ->> 'payer_kind', unhex(value ->> 'tenant', '-'),
    unhex(value ->> 'user_id', '-'), unhex(value ->> 'key_id', '-'), value ->> 'provider', value ->> 'model',
    value ->> 'metadata', value ->> 'status', value ->> 'held', value ->> 'settled', value ->> 'refunded', value ->> 'debt',
    value ->> 'from_allowance', value ->> 'from_purchased', value ->> 'cost', value ->> 'currency', value ->> 'period_start', value ->> 'late',
    value ->> 'created_at', value ->> 'settled_at', value ->> 'expires_at', value ->> 'seq'
FROM jsonb_each(?1)
-- WHERE true: otherwise ON would be read as part of a join.
WHERE true
ON CONFLICT (shard, tenant, created_at, id) DO UPDATE SET
    status = excluded.status, settled = excluded.settled, refunded = excluded.refunded, debt = excluded.debt,
    from_allowance = excluded.from_allowance, from_purchased = excluded.from_purchased, period_start = excluded.period_start,
    late = excluded.late, settled_at = excluded.settled_at, cost = excluded.cost, currency = excluded.currency
