-- Who is told about thresholds, and what became of each delivery. Times are milliseconds since the Unix epoch.

CREATE TABLE webhook (
    id BLOB NOT NULL PRIMARY KEY,
    payer_kind TEXT NOT NULL,
    tenant BLOB NOT NULL,
    url TEXT NOT NULL,
    secret BLOB NOT NULL,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX webhook_by_payer ON webhook (tenant, payer_kind);

CREATE TABLE webhook_delivery (
    webhook_id BLOB NOT NULL REFERENCES webhook ON DELETE CASCADE,
    event_id BLOB NOT NULL,
    body TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('PENDING', 'DELIVERED', 'FAILED')),
    attempts INTEGER NOT NULL,
    due_at INTEGER NOT NULL,
    answered INTEGER,
    error TEXT,
    PRIMARY KEY (webhook_id, event_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX webhook_delivery_due ON webhook_delivery (due_at) WHERE status = 'PENDING';

-- Up to which event of each shard deliveries were queued.
CREATE TABLE webhook_position (
    shard INTEGER NOT NULL PRIMARY KEY,
    seq INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The few rows that webhooks are told about, found without reading the others.
CREATE INDEX outbox_thresholds ON outbox (shard, seq) WHERE kind = 'THRESHOLD_REACHED';
