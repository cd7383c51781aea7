-- Events up to this number are in the archive; the few rows of them that lie in a later partition count for nothing.
ALTER TABLE outbox_history ADD COLUMN archived_through bigint NOT NULL DEFAULT 0;
