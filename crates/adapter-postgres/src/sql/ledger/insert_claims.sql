-- Sorted, because two processes may wait for each other's keys. A key that exists by now is an error.
INSERT INTO idempotency (name, shard, fingerprint, charge_id, lease_until, context, outcome, created_at)
SELECT * FROM unnest($1::uuid[], $2::smallint[], $3::bytea[], $4::uuid[], $5::timestamptz[], $6::bytea[], $7::text[], $8::timestamptz[])
    AS n (name)
ORDER BY n.name;
