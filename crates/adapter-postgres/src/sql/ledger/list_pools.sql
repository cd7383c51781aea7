-- By key, after ($1, $2, $3); of the shards that are at home here.
SELECT payer_is_org, payer_id, provider, allowance, period, time_zone, purchased_granted, purchased_settled, purchased_held, debt,
       period_starts_at, period_ends_at, period_granted, period_settled, period_held, updated_at, marks
FROM pool
WHERE shard IN (SELECT s.shard FROM outbox_shard AS s WHERE s.home)
  AND (payer_is_org, payer_id, provider) > ($1, $2, $3 COLLATE "C") AND ($4::text IS NULL OR provider = $4)
ORDER BY payer_is_org, payer_id, provider
LIMIT $5;
