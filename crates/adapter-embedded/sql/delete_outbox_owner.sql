DELETE FROM outbox_owner WHERE owner = ?1
