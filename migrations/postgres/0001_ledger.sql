-- The ledger: every row belongs to a payer and so to one shard. The row of `outbox_shard` is the lock of its shard:
-- whoever changes anything of a shard holds it from reading to commit, so nothing else here needs a lock.

CREATE TABLE outbox_shard (
    shard    smallint PRIMARY KEY CHECK (shard BETWEEN 0 AND 63),
    -- Number of the shard's newest event; 0 before the first.
    last_seq bigint NOT NULL DEFAULT 0 CHECK (last_seq >= 0),
    -- Raised when the ledger is restored from a backup.
    epoch    integer NOT NULL DEFAULT 1,
    -- Whether any payer of the shard ever had a budget: a batch of others need not look for one.
    budgets  boolean NOT NULL DEFAULT false,
    -- Whether this database keeps the shard: of several, one at most. Read under the row's lock by everyone who writes.
    home     boolean NOT NULL DEFAULT true
) WITH (fillfactor = 10);
INSERT INTO outbox_shard (shard) SELECT generate_series(0, 63);

-- All events, never changed and never deleted row by row: partitions of seven days, made ahead and dropped as a whole.
CREATE TABLE outbox (
    -- On which the transaction began, UTC.
    day    date NOT NULL,
    shard  smallint NOT NULL,
    -- Events in this row: a run without gaps, of one transaction.
    count  smallint NOT NULL CHECK (count > 0),
    -- Number of the last of them.
    seq    bigint NOT NULL CHECK (seq >= count),
    -- What the relay passes on, one after the other; the format is in adapter-postgres/src/packed.rs.
    events bytea NOT NULL,
    -- Whether one of them says that a threshold was reached: such rows are read by themselves.
    thresholds boolean NOT NULL DEFAULT false,
    PRIMARY KEY (shard, seq, day)
) PARTITION BY RANGE (day);
-- Events are small and random: neither worth compressing nor moving out of the row.
ALTER TABLE outbox ALTER COLUMN events SET STORAGE EXTERNAL;

-- Which days of the outbox a reader need not look at. Apart from `outbox_shard`, whose row locks belong to the writers.
CREATE TABLE outbox_history (
    shard      smallint PRIMARY KEY CHECK (shard BETWEEN 0 AND 63),
    -- Events with a number above `closed_seq` lie on this day or later.
    closed_day date NOT NULL DEFAULT '1970-01-01',
    closed_seq bigint NOT NULL DEFAULT 0
);
INSERT INTO outbox_history (shard) SELECT generate_series(0, 63);

CREATE TABLE charge (
    shard          smallint NOT NULL,
    id             uuid NOT NULL,
    payer_is_org   boolean NOT NULL,
    payer_id       uuid NOT NULL,
    user_id        uuid NOT NULL,
    key_id         uuid,
    provider       text COLLATE "C" NOT NULL,
    model          text COLLATE "C",
    -- A JSON object of texts; null when empty. Text, because only the ledger reads it and JSON of its own may hold \u0000.
    metadata       text,
    status         text COLLATE "C" NOT NULL CHECK (status IN ('HELD', 'SETTLED', 'RELEASED', 'EXPIRED', 'REFUNDED')),
    held           bigint NOT NULL CHECK (held BETWEEN 0 AND 9007199254740991),
    settled        bigint NOT NULL CHECK (settled BETWEEN 0 AND 9007199254740991),
    refunded       bigint NOT NULL CHECK (refunded BETWEEN 0 AND settled),
    debt           bigint NOT NULL CHECK (debt BETWEEN 0 AND settled),
    from_allowance bigint NOT NULL CHECK (from_allowance >= 0),
    from_purchased bigint NOT NULL CHECK (from_purchased >= 0),
    period_start   timestamptz,
    late           boolean NOT NULL,
    created_at     timestamptz NOT NULL,
    settled_at     timestamptz,
    expires_at     timestamptz,
    seq            bigint NOT NULL CHECK (seq > 0),
    -- Minor units of the currency; both null where there was no price.
    cost           bigint CHECK (cost BETWEEN 0 AND 9007199254740991),
    currency       text COLLATE "C",
    PRIMARY KEY (shard, id),
    CHECK ((cost IS NULL) = (currency IS NULL)),
    CHECK (CASE status WHEN 'SETTLED' THEN from_allowance + from_purchased + debt = settled
                       WHEN 'HELD' THEN from_allowance + from_purchased = held
                       ELSE true END)
);
-- A payer's charges, newest first.
CREATE INDEX charge_by_payer ON charge (payer_id, created_at, id);
-- What the sweeper looks for.
CREATE INDEX charge_open_holds ON charge (expires_at) WHERE status = 'HELD';

CREATE TABLE pool (
    shard             smallint NOT NULL,
    -- False sorts first, as users do in the order of the keys.
    payer_is_org      boolean NOT NULL,
    payer_id          uuid NOT NULL,
    provider          text COLLATE "C" NOT NULL,
    allowance         bigint NOT NULL CHECK (allowance >= 0),
    period            text COLLATE "C" NOT NULL CHECK (period IN ('DAY', 'WEEK', 'MONTH', 'NONE')),
    time_zone         text COLLATE "C" NOT NULL,
    purchased_granted bigint NOT NULL CHECK (purchased_granted BETWEEN 0 AND 9007199254740991),
    purchased_settled bigint NOT NULL CHECK (purchased_settled >= 0),
    purchased_held    bigint NOT NULL CHECK (purchased_held >= 0),
    debt              bigint NOT NULL CHECK (debt >= 0),
    -- The latest period; all null before the first.
    period_starts_at  timestamptz,
    period_ends_at    timestamptz,
    period_granted    bigint CHECK (period_granted BETWEEN 0 AND 9007199254740991),
    period_settled    bigint CHECK (period_settled >= 0),
    period_held       bigint CHECK (period_held >= 0),
    updated_at        timestamptz NOT NULL,
    -- JSON: thresholds, those that were told, and what was spent before the latest credit; null without thresholds.
    marks             text,
    PRIMARY KEY (payer_is_org, payer_id, provider),
    CHECK (purchased_granted >= purchased_settled + purchased_held),
    CHECK (period_granted >= period_settled + period_held),
    CHECK (num_nulls(period_starts_at, period_granted, period_settled, period_held) IN (0, 4))
) WITH (fillfactor = 50);
-- The audit reads pools by shard. No column of an index changes with a charge, so updates stay on their page.
CREATE INDEX pool_by_shard ON pool (shard);

-- Periods that are over: kept, because a hold is settled in the period in which it was made.
CREATE TABLE pool_period (
    shard        smallint NOT NULL,
    payer_is_org boolean NOT NULL,
    payer_id     uuid NOT NULL,
    provider     text COLLATE "C" NOT NULL,
    starts_at    timestamptz NOT NULL,
    ends_at      timestamptz,
    granted      bigint NOT NULL CHECK (granted BETWEEN 0 AND 9007199254740991),
    settled      bigint NOT NULL CHECK (settled >= 0),
    held         bigint NOT NULL CHECK (held >= 0),
    PRIMARY KEY (payer_is_org, payer_id, provider, starts_at),
    CHECK (granted >= settled + held)
);
CREATE INDEX pool_period_by_shard ON pool_period (shard);

-- How much may be spent in a period: of a payer (member is the nil UUID) or of one member of a paying org, at one provider or all ('').
CREATE TABLE budget (
    shard        smallint NOT NULL,
    payer_is_org boolean NOT NULL,
    payer_id     uuid NOT NULL,
    member       uuid NOT NULL,
    provider     text COLLATE "C" NOT NULL,
    unit         text COLLATE "C" NOT NULL CHECK (unit IN ('TOKENS', 'MONEY')),
    period       text COLLATE "C" NOT NULL CHECK (period IN ('DAY', 'WEEK', 'MONTH', 'NONE')),
    -- Null: counted, not limited. Amounts are in the unit.
    most         bigint CHECK (most BETWEEN 0 AND 9007199254740991),
    time_zone    text COLLATE "C" NOT NULL,
    -- JSON lists of thresholds: those that are set, and those that were reached in the running period.
    thresholds   text NOT NULL,
    reached      text NOT NULL,
    starts_at    timestamptz NOT NULL,
    ends_at      timestamptz,
    used         bigint NOT NULL CHECK (used >= 0),
    held         bigint NOT NULL CHECK (held >= 0),
    PRIMARY KEY (payer_is_org, payer_id, member, provider, unit, period)
) WITH (fillfactor = 70);
CREATE INDEX budget_by_shard ON budget (shard);

CREATE TABLE saga (
    shard smallint NOT NULL,
    id    uuid NOT NULL,
    ended boolean NOT NULL,
    -- When somebody is to move it on: at once, or when the lease of who has claimed it is over. Null: nobody has to.
    due_at timestamptz,
    -- How often it was claimed.
    claim bigint NOT NULL DEFAULT 0,
    -- JSON: who, what, and the steps with their times.
    state text NOT NULL,
    PRIMARY KEY (shard, id)
);
-- What has to be brought to its end.
CREATE INDEX saga_open ON saga (id) WHERE NOT ended;
CREATE INDEX saga_due ON saga (due_at) WHERE due_at IS NOT NULL;

-- Answers by idempotency key: partitions of a day, made ahead and dropped as a whole.
CREATE TABLE idempotency (
    -- The first 128 bits of SHA-256 over scope, a zero byte and key: a third of the size of the texts, in the row and in the index.
    name        uuid NOT NULL,
    -- On which the transaction began, UTC. Part of the key only because the partitions ask for it.
    day         date NOT NULL,
    shard       smallint NOT NULL,
    fingerprint bytea NOT NULL,
    -- The charge that the request was about. The one that opened the key may complete it while the lease runs.
    charge_id   uuid,
    -- Null once completed.
    lease_until timestamptz,
    context     bytea NOT NULL,
    -- The outcome as JSON; of a charge only what may have changed since, see ledger/answers.rs.
    outcome     text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (name, day)
) PARTITION BY RANGE (day);
-- A move of shards asks for the youngest, and for the open ones. Rows arrive in this order, so such an index costs nothing.
CREATE INDEX idempotency_by_age ON idempotency USING brin (created_at) WITH (pages_per_range = 32);
CREATE INDEX idempotency_open ON idempotency (name) WHERE lease_until IS NOT NULL;

-- The last word of the statement that writes a batch: whatever it was decided on must still be so, or nothing of it stays.
CREATE FUNCTION end_write(unmoved boolean, claimed boolean) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF NOT unmoved THEN
        RAISE EXCEPTION 'a shard has moved on' USING ERRCODE = 'serialization_failure';
    END IF;
    IF claimed THEN
        RAISE EXCEPTION 'an idempotency key exists' USING ERRCODE = 'unique_violation';
    END IF;
END $$;

-- Makes the partitions of `parent` that cover the days from `first` to `last`, each `width` days long and counted from a Monday.
-- Made apart and attached: that stops neither readers nor writers. Only for a caller that holds the lock of the maintenance.
CREATE FUNCTION add_partitions(parent text, width integer, first date, last date) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    monday CONSTANT date := '2024-01-01';
    starts date := monday + (first - monday) / width * width;
    name   text;
    added  integer := 0;
BEGIN
    WHILE starts <= last LOOP
        name := parent || to_char(starts, '_YYYY_MM_DD');
        IF to_regclass(name) IS NULL THEN
            EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', name, parent);
            EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', parent, name, starts, starts + width);
            added := added + 1;
        END IF;
        starts := starts + width;
    END LOOP;
    RETURN added;
END $$;

-- Drops the partitions of `parent` that end on or before `keep_from`. Their rows were past their keeping.
CREATE FUNCTION drop_partitions(parent text, keep_from date) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    old     regclass;
    dropped integer := 0;
BEGIN
    FOR old IN
        SELECT i.inhrelid::regclass FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
        WHERE i.inhparent = parent::regclass
          AND substring(pg_get_expr(c.relpartbound, c.oid) FROM $re$TO \('([0-9-]+)'\)$re$)::date <= keep_from
        ORDER BY c.relname
    LOOP
        EXECUTE format('DROP TABLE %s', old);
        dropped := dropped + 1;
    END LOOP;
    RETURN dropped;
END $$;
