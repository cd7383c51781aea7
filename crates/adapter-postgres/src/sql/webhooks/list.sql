SELECT id, payer_is_org, payer_id, url, secret, created_at
FROM webhook WHERE payer_id = $2 AND payer_is_org = $1 ORDER BY created_at, id;
