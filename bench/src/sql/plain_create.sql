-- An outbox as it is commonly built: a row for each event, numbered as it comes.
CREATE TABLE plain_outbox (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    shard        smallint NOT NULL,
    seq          bigint NOT NULL,
    epoch        integer NOT NULL,
    event_id     uuid NOT NULL,
    kind         text NOT NULL,
    tenant       uuid NOT NULL,
    occurred_at  timestamptz NOT NULL,
    trace_parent text,
    payload      bytea NOT NULL
) WITH (autovacuum_enabled = off);
