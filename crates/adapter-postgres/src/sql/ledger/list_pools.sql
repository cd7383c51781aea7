SELECT * FROM pool
WHERE ($1::boolean IS NULL OR (payer_is_org = $1 AND payer_id = $2))
  AND ($3::text IS NULL OR provider = $3)
  AND ($4::boolean IS NULL OR (payer_is_org, payer_id, provider) > ($4, $5::uuid, $6::text COLLATE "C"))
ORDER BY payer_is_org, payer_id, provider
LIMIT $7;
