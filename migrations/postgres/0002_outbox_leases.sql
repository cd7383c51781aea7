-- Who publishes a shard, and how far it is published. Apart from `outbox_shard`, whose row locks belong to the writers.

CREATE TABLE outbox_lease (
    shard             smallint PRIMARY KEY CHECK (shard BETWEEN 0 AND 63),
    owner             uuid,
    lease_until       timestamptz NOT NULL DEFAULT '-infinity',
    -- Raised with each new owner; marks of older ones are ignored.
    fencing           bigint NOT NULL DEFAULT 0,
    published_through bigint NOT NULL DEFAULT 0 CHECK (published_through >= 0)
) WITH (fillfactor = 10);
INSERT INTO outbox_lease (shard) SELECT generate_series(0, 63);

-- Owners that ask for shards: alive ones share them evenly.
CREATE TABLE outbox_owner (
    owner       uuid PRIMARY KEY,
    alive_until timestamptz NOT NULL
);

-- Who ends the overdue holds of this database, and until when nobody else does: one row.
CREATE TABLE sweep_lease (
    sweeper uuid NOT NULL,
    until   timestamptz NOT NULL
) WITH (fillfactor = 10);
INSERT INTO sweep_lease VALUES ('00000000-0000-0000-0000-000000000000', '-infinity');
