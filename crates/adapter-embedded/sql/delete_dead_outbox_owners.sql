DELETE FROM outbox_owner WHERE alive_until <= ?1
