-- By key, after ($1, $2, $3); $6 and $7 are the payer.
SELECT payer_is_org, payer_id, provider, allowance, period, time_zone, purchased_granted, purchased_settled, purchased_held, debt,
       period_starts_at, period_ends_at, period_granted, period_settled, period_held, updated_at, marks
FROM pool
WHERE payer_is_org = $6 AND payer_id = $7
  AND (payer_is_org, payer_id, provider) > ($1, $2, $3 COLLATE "C") AND ($4::text IS NULL OR provider = $4)
ORDER BY provider
LIMIT $5;
