-- The period of each pool that holds each wanted moment; periods of a pool do not overlap.
SELECT p.payer_is_org, p.payer_id, p.provider, p.starts_at, p.ends_at, p.granted, p.settled, p.held
FROM unnest($1::boolean[], $2::uuid[], $3::text[], $4::timestamptz[]) AS wanted (payer_is_org, payer_id, provider, moment)
CROSS JOIN LATERAL (
    SELECT * FROM pool_period AS old
    WHERE old.payer_is_org = wanted.payer_is_org AND old.payer_id = wanted.payer_id AND old.provider = wanted.provider
      AND old.starts_at <= wanted.moment
    ORDER BY old.starts_at DESC LIMIT 1
) AS p
WHERE p.ends_at IS NULL OR wanted.moment < p.ends_at;
