SELECT payer_is_org, payer_id, provider, allowance, period, time_zone, purchased_granted, purchased_settled, purchased_held, debt,
       period_starts_at, period_ends_at, period_granted, period_settled, period_held, updated_at, marks
FROM pool WHERE shard = $1 ORDER BY payer_is_org, payer_id, provider;
