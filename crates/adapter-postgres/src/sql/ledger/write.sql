-- Numbers, new charges, changed pools, events and new idempotency keys in one round trip, all or nothing: only while every shard stands
-- where the batch was decided, and no key exists. A charge id that exists already is an error.
WITH decided AS (
    SELECT * FROM unnest($1::smallint[], $2::bigint[], $3::bigint[], $4::integer[]) AS n (shard, was, last_seq, epoch)
), locked AS MATERIALIZED (
    SELECT shard, last_seq, epoch FROM outbox_shard WHERE shard = ANY ($1) AND home ORDER BY shard FOR UPDATE
), numbered AS (
    -- Each row is locked before it is changed.
    UPDATE outbox_shard AS s SET last_seq = d.last_seq
    FROM locked AS l JOIN decided AS d ON d.shard = l.shard
    WHERE s.shard = l.shard AND l.last_seq = d.was AND d.last_seq > d.was
), charged AS (
    INSERT INTO charge (shard, id, payer_is_org, payer_id, user_id, key_id, provider, model, metadata, status, held, settled, refunded,
                        debt, from_allowance, from_purchased, period_start, late, created_at, settled_at, expires_at, seq,
                        cost, currency)
    SELECT * FROM unnest($5::smallint[], $6::uuid[], $7::boolean[], $8::uuid[], $9::uuid[], $10::uuid[], $11::text[], $12::text[],
                         $13::text[], $14::text[], $15::bigint[], $16::bigint[], $17::bigint[], $18::bigint[], $19::bigint[], $20::bigint[],
                         $21::timestamptz[], $22::boolean[], $23::timestamptz[], $24::timestamptz[], $25::timestamptz[], $26::bigint[],
                         $49::bigint[], $50::text[])
), pooled AS (
    INSERT INTO pool (shard, payer_is_org, payer_id, provider, allowance, period, time_zone, purchased_granted, purchased_settled,
                      purchased_held, debt, period_starts_at, period_ends_at, period_granted, period_settled, period_held, updated_at,
                      marks)
    SELECT * FROM unnest($27::smallint[], $28::boolean[], $29::uuid[], $30::text[], $31::bigint[], $32::text[], $33::text[], $34::bigint[],
                         $35::bigint[], $36::bigint[], $37::bigint[], $38::timestamptz[], $39::timestamptz[], $40::bigint[], $41::bigint[],
                         $42::bigint[], $43::timestamptz[], $58::text[])
    ON CONFLICT (payer_is_org, payer_id, provider) DO UPDATE SET
        allowance = excluded.allowance, period = excluded.period, time_zone = excluded.time_zone,
        purchased_granted = excluded.purchased_granted, purchased_settled = excluded.purchased_settled,
        purchased_held = excluded.purchased_held, debt = excluded.debt, period_starts_at = excluded.period_starts_at,
        period_ends_at = excluded.period_ends_at, period_granted = excluded.period_granted, period_settled = excluded.period_settled,
        period_held = excluded.period_held, updated_at = excluded.updated_at, marks = excluded.marks
), recorded AS (
    INSERT INTO outbox (day, shard, count, seq, events, thresholds)
    SELECT (now() AT TIME ZONE 'UTC')::date, n.shard, n.count, n.seq, n.events, n.thresholds
    FROM unnest($44::smallint[], $45::smallint[], $46::bigint[], $47::bytea[], $48::boolean[]) AS n (shard, count, seq, events, thresholds)
), claimed AS (
    -- Sorted, because two processes may wait for each other's keys.
    INSERT INTO idempotency (name, day, shard, fingerprint, charge_id, lease_until, context, outcome)
    SELECT n.name, (now() AT TIME ZONE 'UTC')::date, n.shard, n.fingerprint, n.charge_id, n.lease_until, n.context, n.outcome
    FROM unnest($51::uuid[], $52::smallint[], $53::bytea[], $54::uuid[], $55::timestamptz[], $56::bytea[], $57::text[])
        AS n (name, shard, fingerprint, charge_id, lease_until, context, outcome)
    ORDER BY n.name
)
SELECT end_write(
    count(*) = cardinality($1),
    EXISTS (SELECT FROM unnest($51::uuid[]) AS n (name) JOIN idempotency AS i ON i.name = n.name)
)
FROM locked AS l JOIN decided AS d ON d.shard = l.shard AND d.was = l.last_seq AND d.epoch = l.epoch;
