SELECT p.payer_is_org, p.payer_id, p.provider, p.starts_at, p.ends_at, p.granted, p.settled, p.held
FROM unnest($1::boolean[], $2::uuid[], $3::text[], $4::timestamptz[]) AS wanted (payer_is_org, payer_id, provider, starts_at)
JOIN pool_period AS p ON p.payer_is_org = wanted.payer_is_org AND p.payer_id = wanted.payer_id
    AND p.provider = wanted.provider AND p.starts_at = wanted.starts_at;
