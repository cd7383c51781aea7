-- Answers under idempotency keys, of requests that no transaction of the ledger covers: partitions of a day, made ahead and dropped
-- as a whole.
CREATE TABLE answer (
    -- The first 128 bits of SHA-256 over scope, a zero byte and key.
    name        uuid NOT NULL,
    -- On which the first attempt's transaction began, UTC. Part of the key only because the partitions ask for it.
    day         date NOT NULL,
    fingerprint bytea NOT NULL CHECK (octet_length(fingerprint) = 32),
    -- The first attempt, from which everything that the request makes gets its ids.
    seed        uuid NOT NULL,
    -- The attempt that runs now.
    holder      uuid NOT NULL,
    lease_until timestamptz NOT NULL,
    -- The sealed answer; null until there is one.
    body        bytea,
    created_at  timestamptz NOT NULL,
    PRIMARY KEY (name, day)
) PARTITION BY RANGE (day);
-- Random bytes do not compress.
ALTER TABLE answer ALTER COLUMN body SET STORAGE EXTERNAL;

-- A new name, or one whose attempt is over without an answer; no row for any other. No key spans the partitions: two attempts of one
-- name take turns, so that the second sees what the first wrote, also when midnight lies between them.
CREATE FUNCTION begin_answer(of_name uuid, of_fingerprint bytea, of_holder uuid, of_lease timestamptz, of_now timestamptz)
RETURNS TABLE (first_attempt uuid, first_at timestamptz) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('weir answer ' || of_name, 0));
    RETURN QUERY UPDATE answer AS a SET holder = of_holder, lease_until = of_lease
        WHERE a.name = of_name AND a.body IS NULL AND a.fingerprint = of_fingerprint
          AND (a.holder = of_holder OR a.lease_until <= of_now)
        RETURNING a.seed, a.created_at;
    IF FOUND OR EXISTS (SELECT FROM answer AS a WHERE a.name = of_name) THEN
        RETURN;
    END IF;
    RETURN QUERY INSERT INTO answer AS a (name, day, fingerprint, seed, holder, lease_until, created_at)
        VALUES (of_name, (now() AT TIME ZONE 'UTC')::date, of_fingerprint, of_holder, of_holder, of_lease, of_now)
        RETURNING a.seed, a.created_at;
END $$;
