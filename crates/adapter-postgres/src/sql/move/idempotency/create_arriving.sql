CREATE TEMPORARY TABLE arriving_idempotency (LIKE idempotency) ON COMMIT DROP;
