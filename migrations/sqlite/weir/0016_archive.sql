-- Events up to this number are in the archive; rows of them that are still here count for nothing.
ALTER TABLE outbox_shard ADD COLUMN archived_through INTEGER NOT NULL DEFAULT 0;
