SELECT count(*) FROM outbox_owner
