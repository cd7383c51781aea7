SELECT p.payer_is_org, p.payer_id, p.provider, p.allowance, p.period, p.time_zone, p.purchased_granted, p.purchased_settled,
       p.purchased_held, p.debt, p.period_starts_at, p.period_ends_at, p.period_granted, p.period_settled, p.period_held,
       p.updated_at, p.marks
FROM unnest($1::boolean[], $2::uuid[], $3::text[]) AS wanted (payer_is_org, payer_id, provider)
JOIN pool AS p ON p.payer_is_org = wanted.payer_is_org AND p.payer_id = wanted.payer_id AND p.provider = wanted.provider;
