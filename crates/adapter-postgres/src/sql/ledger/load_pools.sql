SELECT p.*
FROM unnest($1::boolean[], $2::uuid[], $3::text[]) AS wanted (payer_is_org, payer_id, provider)
JOIN pool AS p ON p.payer_is_org = wanted.payer_is_org AND p.payer_id = wanted.payer_id AND p.provider = wanted.provider;
