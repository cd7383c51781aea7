CREATE TABLE settings_version (
    version INTEGER PRIMARY KEY,
    author TEXT NOT NULL,
    at INTEGER NOT NULL,
    -- NULL for the document that was shipped.
    change TEXT,
    document TEXT NOT NULL
) STRICT;

-- One row: facts of this installation.
CREATE TABLE installation (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    -- Under which key secrets are hashed; made when it is first asked for.
    pepper BLOB,
    -- Rises with every revoked key, changed membership and changed tier.
    revision INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE app_user (
    id BLOB PRIMARY KEY,
    tier TEXT
) STRICT, WITHOUT ROWID;

CREATE TABLE org (
    id BLOB PRIMARY KEY,
    name TEXT NOT NULL,
    tier TEXT,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE member (
    org_id BLOB NOT NULL REFERENCES org (id),
    user_id BLOB NOT NULL REFERENCES app_user (id),
    role TEXT NOT NULL,
    PRIMARY KEY (org_id, user_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX member_by_user ON member (user_id);

-- Keyed hashes only; the secrets are nowhere.
CREATE TABLE api_key (
    id BLOB PRIMARY KEY,
    hash BLOB NOT NULL UNIQUE,
    user_id BLOB REFERENCES app_user (id),
    name TEXT,
    -- JSON arrays, as are the next two; empty ones allow everything.
    scopes TEXT NOT NULL,
    providers TEXT NOT NULL,
    org_ids TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    -- The one administrator who is no user.
    bootstrap INTEGER NOT NULL DEFAULT 0,
    CHECK (bootstrap = 1 OR user_id IS NOT NULL)
) STRICT, WITHOUT ROWID;

CREATE INDEX api_key_by_user ON api_key (user_id);

CREATE UNIQUE INDEX api_key_one_bootstrap ON api_key (bootstrap) WHERE bootstrap = 1;
