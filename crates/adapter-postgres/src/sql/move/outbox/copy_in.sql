COPY arriving_outbox FROM STDIN (FORMAT binary)
