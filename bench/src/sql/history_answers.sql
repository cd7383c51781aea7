-- Answers of today, each as large as a real one.
INSERT INTO idempotency (name, day, shard, fingerprint, charge_id, context, outcome)
SELECT gen_random_uuid(), (now() AT TIME ZONE 'UTC')::date, g % 64, real.fingerprint, gen_random_uuid(), real.context, real.outcome
FROM (SELECT fingerprint, context, outcome FROM idempotency LIMIT 1) AS real, generate_series(1, $1::bigint) AS g;
