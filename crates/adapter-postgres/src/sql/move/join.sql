-- Makes a fresh database one that only keeps what is moved to it. False when it holds a ledger of its own.
WITH joined AS (
    UPDATE installation SET ledger_only = true
    WHERE NOT ledger_only AND NOT EXISTS (SELECT FROM outbox_shard WHERE last_seq > 0) RETURNING one
), emptied AS (
    UPDATE outbox_shard SET home = false WHERE EXISTS (SELECT FROM joined)
)
SELECT EXISTS (SELECT FROM joined) OR (SELECT ledger_only FROM installation);
