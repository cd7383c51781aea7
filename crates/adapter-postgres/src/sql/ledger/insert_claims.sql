-- Sorted, because two processes may wait for each other's keys. A key that exists by now is an error.
INSERT INTO idempotency (name, day, shard, fingerprint, charge_id, lease_until, context, outcome)
SELECT n.name, (now() AT TIME ZONE 'UTC')::date, n.shard, n.fingerprint, n.charge_id, n.lease_until, n.context, n.outcome
FROM unnest($1::uuid[], $2::smallint[], $3::bytea[], $4::uuid[], $5::timestamptz[], $6::bytea[], $7::text[])
    AS n (name, shard, fingerprint, charge_id, lease_until, context, outcome)
ORDER BY n.name;
