-- Who is told about thresholds, and what became of each delivery.

CREATE TABLE webhook (
    id           uuid PRIMARY KEY,
    payer_is_org boolean NOT NULL,
    payer_id     uuid NOT NULL,
    url          text NOT NULL,
    secret       bytea NOT NULL,
    created_at   timestamptz NOT NULL
);
CREATE INDEX webhook_by_payer ON webhook (payer_id, payer_is_org);

CREATE TABLE webhook_delivery (
    webhook_id uuid NOT NULL REFERENCES webhook ON DELETE CASCADE,
    event_id   uuid NOT NULL,
    body       text NOT NULL,
    created_at timestamptz NOT NULL,
    status     text COLLATE "C" NOT NULL CHECK (status IN ('PENDING', 'DELIVERED', 'FAILED')),
    attempts   integer NOT NULL,
    due_at     timestamptz NOT NULL,
    answered   integer,
    error      text,
    PRIMARY KEY (webhook_id, event_id)
);
CREATE INDEX webhook_delivery_due ON webhook_delivery (due_at) WHERE status = 'PENDING';

-- Up to which event of each shard deliveries were queued.
CREATE TABLE webhook_position (
    shard smallint PRIMARY KEY,
    seq   bigint NOT NULL
);

-- The few rows that webhooks are told about, found without reading the others.
CREATE INDEX outbox_thresholds ON outbox (shard, seq) WHERE thresholds;
