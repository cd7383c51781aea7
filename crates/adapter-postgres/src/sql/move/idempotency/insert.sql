INSERT INTO idempotency SELECT * FROM arriving_idempotency;
