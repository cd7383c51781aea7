-- Newest first; ($6, $7) is the end of the range or the last one of the previous page, whichever is earlier.
SELECT id, payer_is_org, payer_id, user_id, key_id, provider, model, metadata, status, held, settled, refunded, debt,
       from_allowance, from_purchased, cost, currency, period_start, late, created_at, settled_at, expires_at, seq
FROM charge
WHERE payer_id = $1 AND payer_is_org = $2
  AND ($3::uuid IS NULL OR user_id = $3)
  AND ($4::text IS NULL OR provider = $4)
  AND created_at >= $5 AND (created_at, id) < ($6, $7)
ORDER BY created_at DESC, id DESC
LIMIT $8;
