DELETE FROM outbox_owner WHERE alive_until <= clock_timestamp();
