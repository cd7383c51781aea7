INSERT INTO pool_period (shard, payer_is_org, payer_id, provider, starts_at, ends_at, granted, settled, held)
SELECT * FROM unnest($1::smallint[], $2::boolean[], $3::uuid[], $4::text[], $5::timestamptz[], $6::timestamptz[], $7::bigint[], $8::bigint[],
                     $9::bigint[])
ON CONFLICT (payer_is_org, payer_id, provider, starts_at)
DO UPDATE SET ends_at = excluded.ends_at, granted = excluded.granted, settled = excluded.settled, held = excluded.held;
