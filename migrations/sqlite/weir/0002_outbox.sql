-- The journal, the outbox and the log in one append-only table, clustered by shard: each shard is read in order of its numbers.
CREATE TABLE outbox (
    shard INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    event_id BLOB NOT NULL,
    kind TEXT NOT NULL,
    tenant BLOB NOT NULL,
    occurred_at INTEGER NOT NULL,
    recorded_at INTEGER NOT NULL,
    trace_parent TEXT,
    -- What the request had seen; NULL for nothing.
    seen BLOB,
    -- Avro without framing.
    payload BLOB NOT NULL,
    PRIMARY KEY (shard, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE outbox_shard (
    shard INTEGER PRIMARY KEY,
    last_seq INTEGER NOT NULL DEFAULT 0,
    epoch INTEGER NOT NULL DEFAULT 1,
    published_through INTEGER NOT NULL DEFAULT 0,
    owner BLOB,
    lease_until INTEGER NOT NULL DEFAULT 0,
    fencing INTEGER NOT NULL DEFAULT 0
) STRICT;

WITH RECURSIVE numbers (shard) AS (SELECT 0 UNION ALL SELECT shard + 1 FROM numbers WHERE shard < 63)
INSERT INTO outbox_shard (shard) SELECT shard FROM numbers;

-- Who publishes, and until when it counts as alive.
CREATE TABLE outbox_owner (
    owner BLOB PRIMARY KEY,
    alive_until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE reader_offset (
    reader_group TEXT NOT NULL,
    shard INTEGER NOT NULL,
    next_offset INTEGER NOT NULL,
    PRIMARY KEY (reader_group, shard)
) STRICT, WITHOUT ROWID;

CREATE TABLE dead_letter (
    shard INTEGER NOT NULL,
    log_offset INTEGER NOT NULL,
    seq INTEGER,
    reason TEXT NOT NULL,
    -- The record's original bytes.
    value BLOB NOT NULL,
    -- First and last: a reader that crashes meets the record again.
    buried_at INTEGER NOT NULL,
    last_buried_at INTEGER NOT NULL,
    PRIMARY KEY (shard, log_offset)
) STRICT, WITHOUT ROWID;

-- What was done about dead letters: facts, never changed.
CREATE TABLE dead_letter_act (
    id INTEGER PRIMARY KEY,
    shard INTEGER NOT NULL,
    log_offset INTEGER NOT NULL,
    -- JSON of ports::event_log::LetterAct.
    act TEXT NOT NULL,
    -- Of an edit.
    value BLOB
) STRICT;
