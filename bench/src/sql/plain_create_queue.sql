CREATE TABLE plain_queue (LIKE plain_outbox INCLUDING ALL) WITH (autovacuum_enabled = off);
