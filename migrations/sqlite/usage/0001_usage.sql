CREATE TABLE generation (
    id INTEGER PRIMARY KEY,
    started_at_micros INTEGER NOT NULL,
    -- Exactly one generation is the one that reports read.
    live INTEGER NOT NULL
) STRICT;

CREATE UNIQUE INDEX generation_live ON generation (live) WHERE live = 1;

CREATE TABLE shard_state (
    generation INTEGER NOT NULL,
    shard INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,
    -- The 64 bits of an unsigned number.
    digest INTEGER NOT NULL,
    recorded_at INTEGER NOT NULL,
    PRIMARY KEY (generation, shard)
) STRICT, WITHOUT ROWID;

-- Absolute totals after the event numbered last_seq.
CREATE TABLE rollup (
    generation INTEGER NOT NULL,
    -- A tenant's UUID, or all/<shard>.
    scope TEXT NOT NULL,
    grain TEXT NOT NULL,
    bucket INTEGER NOT NULL,
    dimension TEXT NOT NULL,
    shard INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    denied INTEGER NOT NULL,
    refunded INTEGER NOT NULL,
    cost_minor_units INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,
    PRIMARY KEY (generation, scope, grain, bucket, dimension, shard)
) STRICT, WITHOUT ROWID;

CREATE TABLE raw_event (
    tenant BLOB NOT NULL,
    occurred_at INTEGER NOT NULL,
    event_id BLOB NOT NULL,
    shard INTEGER NOT NULL,
    provider TEXT,
    -- Avro without framing.
    payload BLOB NOT NULL,
    PRIMARY KEY (tenant, occurred_at, event_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX raw_event_by_provider ON raw_event (provider, occurred_at, event_id);
