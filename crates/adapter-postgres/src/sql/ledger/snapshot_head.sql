SELECT s.last_seq, h.archived_through FROM outbox_shard AS s JOIN outbox_history AS h USING (shard) WHERE s.shard = $1;
