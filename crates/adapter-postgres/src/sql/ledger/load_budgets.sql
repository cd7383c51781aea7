SELECT b.payer_is_org, b.payer_id, b.member, b.provider, b.unit, b.period, b.most, b.time_zone, b.thresholds, b.reached, b.starts_at,
       b.ends_at, b.used, b.held
FROM unnest($1::boolean[], $2::uuid[], $3::uuid[]) AS wanted (payer_is_org, payer_id, member)
JOIN budget AS b ON b.payer_is_org = wanted.payer_is_org AND b.payer_id = wanted.payer_id AND b.member = wanted.member;
