-- Users, organisations, memberships, API keys.

CREATE TABLE app_user (
    id   uuid PRIMARY KEY,
    tier text
);

CREATE TABLE org (
    id         uuid PRIMARY KEY,
    name       text NOT NULL,
    tier       text,
    created_at timestamptz NOT NULL
);

CREATE TABLE member (
    org_id  uuid NOT NULL REFERENCES org,
    user_id uuid NOT NULL REFERENCES app_user,
    role    text NOT NULL CHECK (role IN ('ORG_ADMIN', 'MEMBER')),
    PRIMARY KEY (org_id, user_id)
);
CREATE INDEX member_by_user ON member (user_id, org_id);

CREATE TABLE api_key (
    hash       bytea PRIMARY KEY CHECK (length(hash) = 32),
    id         uuid NOT NULL UNIQUE,
    user_id    uuid REFERENCES app_user,
    name       text,
    scopes     text[] NOT NULL,
    providers  text[] NOT NULL,
    org_ids    uuid[] NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz,
    -- The one administrator who is no user.
    bootstrap  boolean NOT NULL DEFAULT false,
    CHECK (bootstrap OR user_id IS NOT NULL)
);
CREATE INDEX api_key_by_user ON api_key (user_id, created_at, id);
CREATE UNIQUE INDEX api_key_one_bootstrap ON api_key (bootstrap) WHERE bootstrap;

-- Facts about the installation; exactly one row.
CREATE TABLE installation (
    one      boolean PRIMARY KEY DEFAULT true CHECK (one),
    -- Under which key secrets are hashed.
    pepper   bytea NOT NULL CHECK (length(pepper) = 32),
    -- Rises with every revoked key, changed membership and changed tier.
    revision bigint NOT NULL DEFAULT 0,
    -- One of the further databases of an installation: keeps the shards that were moved to it, and nothing else.
    ledger_only boolean NOT NULL DEFAULT false
);
-- Two random UUIDs, 244 bits of the server's strong randomness, evened out by a hash.
INSERT INTO installation (pepper) VALUES (sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())));
