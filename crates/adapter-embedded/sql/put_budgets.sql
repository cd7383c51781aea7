INSERT INTO budget (
    payer_kind, tenant, member, provider, unit, period, shard, most, time_zone, thresholds, reached, starts_at, ends_at, used, held
)
SELECT
    value ->> 'payer_kind', unhex(value ->> 'tenant', '-'), unhex(value ->> 'member', '-'), value ->> 'provider', value ->> 'unit',
    value ->> 'period', value ->> 'shard', value ->> 'most', value ->> 'time_zone', value ->> 'thresholds', value ->> 'reached',
    value ->> 'starts_at', value ->> 'ends_at', value ->> 'used', value ->> 'held'
FROM jsonb_each(?1)
-- WHERE true: otherwise ON would be read as part of a join.
WHERE true
ON CONFLICT (payer_kind, tenant, member, provider, unit, period) DO UPDATE SET
    most = excluded.most, time_zone = excluded.time_zone, thresholds = excluded.thresholds, reached = excluded.reached,
    starts_at = excluded.starts_at, ends_at = excluded.ends_at, used = excluded.used, held = excluded.held
