-- The settings document, one row per version.

CREATE TABLE settings_version (
    version  bigint PRIMARY KEY,
    author   text NOT NULL,
    at       timestamptz NOT NULL,
    -- The change that made this version, as JSON; null for the first.
    change   text,
    document text NOT NULL
);
