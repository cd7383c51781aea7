-- Marks the shards, so that from now on every batch looks for the budgets of its payers.
WITH marked AS (
    UPDATE outbox_shard SET budgets = true WHERE shard = ANY ($1) AND NOT budgets
)
INSERT INTO budget (shard, payer_is_org, payer_id, member, provider, unit, period, most, time_zone, thresholds, reached, starts_at, ends_at,
                    used, held)
SELECT * FROM unnest($1::smallint[], $2::boolean[], $3::uuid[], $4::uuid[], $5::text[], $6::text[], $7::text[], $8::bigint[], $9::text[],
                     $10::text[], $11::text[], $12::timestamptz[], $13::timestamptz[], $14::bigint[], $15::bigint[])
ON CONFLICT (payer_is_org, payer_id, member, provider, unit, period) DO UPDATE SET
    most = excluded.most, time_zone = excluded.time_zone, thresholds = excluded.thresholds, reached = excluded.reached,
    starts_at = excluded.starts_at, ends_at = excluded.ends_at, used = excluded.used, held = excluded.held;
