-- Newest first; ($6, $7) is the end of the range or the last one of the previous page, whichever is earlier.
SELECT * FROM charge
WHERE payer_id = $1 AND payer_is_org = $2
  AND ($3::uuid IS NULL OR user_id = $3)
  AND ($4::text IS NULL OR provider = $4)
  AND created_at >= $5 AND (created_at, id) < ($6, $7)
ORDER BY created_at DESC, id DESC
LIMIT $8;
