SELECT payer_is_org, payer_id, member, provider, unit, period, most, time_zone, thresholds, reached, starts_at, ends_at, used, held
FROM budget WHERE shard = $1;
