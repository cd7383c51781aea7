COPY arriving_idempotency FROM STDIN (FORMAT binary)
