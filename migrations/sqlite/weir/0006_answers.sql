-- Answers under idempotency keys, of requests that no transaction of the ledger covers.
CREATE TABLE answer (
    -- The first 16 bytes of SHA-256 over scope, a zero byte and key.
    name BLOB PRIMARY KEY,
    fingerprint BLOB NOT NULL,
    -- The first attempt, from which everything that the request makes gets its ids.
    seed BLOB NOT NULL,
    -- The attempt that runs now.
    holder BLOB NOT NULL,
    lease_until INTEGER NOT NULL,
    -- The sealed answer; NULL until there is one.
    body BLOB,
    created_at INTEGER NOT NULL
) STRICT;

CREATE INDEX answer_by_age ON answer (created_at);
