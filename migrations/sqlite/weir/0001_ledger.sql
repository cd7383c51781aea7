-- Amounts are whole tokens, times are milliseconds since the Unix epoch, ids are the 16 bytes of a UUID.

CREATE TABLE pool (
    -- DESC: users before orgs, the order of a pool's key.
    payer_kind TEXT NOT NULL CHECK (payer_kind IN ('USER', 'ORG')),
    tenant BLOB NOT NULL,
    provider TEXT NOT NULL,
    shard INTEGER NOT NULL,
    allowance INTEGER NOT NULL CHECK (allowance >= 0),
    period TEXT NOT NULL,
    time_zone TEXT NOT NULL,
    purchased_granted INTEGER NOT NULL,
    purchased_settled INTEGER NOT NULL CHECK (purchased_settled >= 0),
    purchased_held INTEGER NOT NULL CHECK (purchased_held >= 0),
    debt INTEGER NOT NULL CHECK (debt >= 0),
    -- The latest period that was opened; all NULL before the first one.
    period_starts_at INTEGER,
    period_ends_at INTEGER,
    period_granted INTEGER,
    period_settled INTEGER CHECK (period_settled >= 0),
    period_held INTEGER CHECK (period_held >= 0),
    -- JSON: thresholds, those that were told, and what was spent before the latest credit; NULL without thresholds.
    marks TEXT,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (payer_kind DESC, tenant, provider),
    -- The last line of defence: nothing is ever spent that was not granted.
    CHECK (purchased_granted >= purchased_settled + purchased_held),
    CHECK (period_granted >= period_settled + period_held)
) STRICT, WITHOUT ROWID;

CREATE INDEX pool_by_shard ON pool (shard);

-- Periods that are over; a charge held in one is still settled in it.
CREATE TABLE pool_period (
    payer_kind TEXT NOT NULL,
    tenant BLOB NOT NULL,
    provider TEXT NOT NULL,
    starts_at INTEGER NOT NULL,
    shard INTEGER NOT NULL,
    ends_at INTEGER,
    granted INTEGER NOT NULL,
    settled INTEGER NOT NULL CHECK (settled >= 0),
    held INTEGER NOT NULL CHECK (held >= 0),
    PRIMARY KEY (payer_kind, tenant, provider, starts_at),
    CHECK (granted >= settled + held)
) STRICT, WITHOUT ROWID;

CREATE INDEX pool_period_by_shard ON pool_period (shard);

CREATE TABLE charge (
    shard INTEGER NOT NULL,
    id BLOB NOT NULL,
    payer_kind TEXT NOT NULL,
    tenant BLOB NOT NULL,
    user_id BLOB NOT NULL,
    key_id BLOB,
    provider TEXT NOT NULL,
    model TEXT,
    metadata TEXT NOT NULL,
    status TEXT NOT NULL,
    held INTEGER NOT NULL,
    settled INTEGER NOT NULL,
    refunded INTEGER NOT NULL CHECK (refunded <= settled),
    debt INTEGER NOT NULL,
    from_allowance INTEGER NOT NULL,
    from_purchased INTEGER NOT NULL,
    -- Minor units of the currency; both NULL where there was no price.
    cost INTEGER CHECK (cost >= 0),
    currency TEXT,
    period_start INTEGER,
    late INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    settled_at INTEGER,
    expires_at INTEGER,
    seq INTEGER NOT NULL CHECK (seq > 0),
    -- A payer's charges lie together, in the order in which they are listed and audited.
    PRIMARY KEY (shard, tenant, created_at, id),
    CHECK (status <> 'SETTLED' OR from_allowance + from_purchased + debt = settled),
    CHECK (status <> 'HELD' OR from_allowance + from_purchased = held)
) STRICT, WITHOUT ROWID;

-- New ids are the largest ones: this index grows at its end.
CREATE UNIQUE INDEX charge_by_id ON charge (id);

-- What the sweeper looks for.
CREATE INDEX charge_open_holds ON charge (expires_at) WHERE status = 'HELD';

-- How much may be spent in a period: of a payer (member is the nil UUID) or of one member of a paying org, at one provider or all ('').
CREATE TABLE budget (
    payer_kind TEXT NOT NULL,
    tenant BLOB NOT NULL,
    member BLOB NOT NULL,
    provider TEXT NOT NULL,
    unit TEXT NOT NULL,
    period TEXT NOT NULL,
    shard INTEGER NOT NULL,
    -- NULL: counted, not limited. Amounts are in the unit.
    most INTEGER CHECK (most >= 0),
    time_zone TEXT NOT NULL,
    -- JSON lists of thresholds: those that are set, and those that were reached in the running period.
    thresholds TEXT NOT NULL,
    reached TEXT NOT NULL,
    starts_at INTEGER NOT NULL,
    ends_at INTEGER,
    used INTEGER NOT NULL CHECK (used >= 0),
    held INTEGER NOT NULL CHECK (held >= 0),
    PRIMARY KEY (payer_kind, tenant, member, provider, unit, period)
) STRICT, WITHOUT ROWID;

CREATE INDEX budget_by_shard ON budget (shard);

CREATE TABLE saga (
    id BLOB PRIMARY KEY,
    shard INTEGER NOT NULL,
    ended INTEGER NOT NULL,
    -- When somebody is to move it on: at once, or when the lease of who has claimed it is over. NULL: nobody has to.
    due_at INTEGER,
    -- How often it was claimed.
    claim INTEGER NOT NULL DEFAULT 0,
    -- JSON: who, what, and the steps with their times.
    state TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX saga_by_shard ON saga (shard, id);
-- What has to be brought to its end.
CREATE INDEX saga_open ON saga (id) WHERE NOT ended;
CREATE INDEX saga_due ON saga (due_at) WHERE due_at IS NOT NULL;

CREATE TABLE idempotency (
    scope TEXT NOT NULL,
    key TEXT NOT NULL,
    fingerprint BLOB NOT NULL,
    -- NULL once the request under this key has ended.
    lease_until INTEGER,
    -- The charge that opened the key.
    charge_id BLOB,
    context BLOB NOT NULL,
    outcome TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (scope, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX idempotency_by_age ON idempotency (created_at);
