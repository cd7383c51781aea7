-- Answers under idempotency keys, of requests that no transaction of the ledger covers.
CREATE TABLE answer (
    -- The first 128 bits of SHA-256 over scope, a zero byte and key.
    name        uuid PRIMARY KEY,
    fingerprint bytea NOT NULL CHECK (octet_length(fingerprint) = 32),
    -- The first attempt, from which everything that the request makes gets its ids.
    seed        uuid NOT NULL,
    -- The attempt that runs now.
    holder      uuid NOT NULL,
    lease_until timestamptz NOT NULL,
    -- The sealed answer; null until there is one.
    body        bytea,
    created_at  timestamptz NOT NULL
);
-- Random bytes do not compress.
ALTER TABLE answer ALTER COLUMN body SET STORAGE EXTERNAL;
CREATE INDEX answer_by_age ON answer (created_at);
