SELECT payer_is_org, payer_id, provider, starts_at, ends_at, granted, settled, held
FROM pool_period WHERE shard = $1 ORDER BY payer_is_org, payer_id, provider, starts_at;
