SELECT id, payer_is_org, payer_id, user_id, key_id, provider, model, metadata, status, held, settled, refunded, debt,
       from_allowance, from_purchased, cost, currency, period_start, late, created_at, settled_at, expires_at, seq
FROM charge WHERE shard = $1 AND id = $2;
