-- Sorted, because two processes may wait for each other's keys. A key that exists by now is an error.
INSERT INTO idempotency (scope, key, shard, fingerprint, charge_id, lease_until, context, outcome, created_at)
SELECT * FROM unnest($1::text[], $2::text[], $3::smallint[], $4::bytea[], $5::uuid[], $6::timestamptz[], $7::bytea[], $8::text[],
                     $9::timestamptz[]) AS n (scope, key)
ORDER BY n.scope COLLATE "C", n.key COLLATE "C";
