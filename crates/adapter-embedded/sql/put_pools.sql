INSERT INTO pool (
    payer_kind, tenant, provider, shard, allowance, period, time_zone, purchased_granted, purchased_settled, purchased_held,
    debt, period_starts_at, period_ends_at, period_granted, period_settled, period_held, marks, updated_at
)
SELECT
    value ->> 'payer_kind', unhex(value ->> 'tenant', '-'), value ->> 'provider', value ->> 'shard', value ->> 'allowance',
    value ->> 'period', value ->> 'time_zone', value ->> 'purchased_granted', value ->> 'purchased_settled',
    value ->> 'purchased_held', value ->> 'debt', value ->> 'period_starts_at', value ->> 'period_ends_at',
    value ->> 'period_granted', value ->> 'period_settled', value ->> 'period_held', value ->> 'marks', value ->> 'updated_at'
FROM jsonb_each(?1)
-- WHERE true: otherwise ON would be read as part of a join.
WHERE true
ON CONFLICT (payer_kind, tenant, provider) DO UPDATE SET
    allowance = excluded.allowance, period = excluded.period, time_zone = excluded.time_zone,
    purchased_granted = excluded.purchased_granted, purchased_settled = excluded.purchased_settled,
    purchased_held = excluded.purchased_held, debt = excluded.debt,
    period_starts_at = excluded.period_starts_at, period_ends_at = excluded.period_ends_at,
    period_granted = excluded.period_granted, period_settled = excluded.period_settled, period_held = excluded.period_held,
    marks = excluded.marks, updated_at = excluded.updated_at
