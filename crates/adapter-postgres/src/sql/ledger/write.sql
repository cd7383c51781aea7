-- Numbers, new charges, changed pools and events in one round trip. The shards are locked; a charge id that exists already is an error.
WITH numbered AS (
    UPDATE outbox_shard AS s SET last_seq = n.last_seq
    FROM unnest($1::smallint[], $2::bigint[]) AS n (shard, last_seq)
    WHERE s.shard = n.shard
), charged AS (
    INSERT INTO charge (shard, id, payer_is_org, payer_id, user_id, key_id, provider, model, metadata, status, held, settled, refunded,
                        debt, from_allowance, from_purchased, period_start, late, created_at, settled_at, expires_at, seq,
                        cost, currency)
    SELECT * FROM unnest($3::smallint[], $4::uuid[], $5::boolean[], $6::uuid[], $7::uuid[], $8::uuid[], $9::text[], $10::text[],
                         $11::text[], $12::text[], $13::bigint[], $14::bigint[], $15::bigint[], $16::bigint[], $17::bigint[], $18::bigint[],
                         $19::timestamptz[], $20::boolean[], $21::timestamptz[], $22::timestamptz[], $23::timestamptz[], $24::bigint[],
                         $47::bigint[], $48::text[])
), pooled AS (
    INSERT INTO pool (shard, payer_is_org, payer_id, provider, allowance, period, time_zone, purchased_granted, purchased_settled,
                      purchased_held, debt, period_starts_at, period_ends_at, period_granted, period_settled, period_held, updated_at)
    SELECT * FROM unnest($25::smallint[], $26::boolean[], $27::uuid[], $28::text[], $29::bigint[], $30::text[], $31::text[], $32::bigint[],
                         $33::bigint[], $34::bigint[], $35::bigint[], $36::timestamptz[], $37::timestamptz[], $38::bigint[], $39::bigint[],
                         $40::bigint[], $41::timestamptz[])
    ON CONFLICT (payer_is_org, payer_id, provider) DO UPDATE SET
        allowance = excluded.allowance, period = excluded.period, time_zone = excluded.time_zone,
        purchased_granted = excluded.purchased_granted, purchased_settled = excluded.purchased_settled,
        purchased_held = excluded.purchased_held, debt = excluded.debt, period_starts_at = excluded.period_starts_at,
        period_ends_at = excluded.period_ends_at, period_granted = excluded.period_granted, period_settled = excluded.period_settled,
        period_held = excluded.period_held, updated_at = excluded.updated_at
)
INSERT INTO outbox (day, shard, count, seq, events, thresholds)
SELECT (now() AT TIME ZONE 'UTC')::date, n.shard, n.count, n.seq, n.events, n.thresholds
FROM unnest($42::smallint[], $43::smallint[], $44::bigint[], $45::bytea[], $46::boolean[]) AS n (shard, count, seq, events, thresholds);
