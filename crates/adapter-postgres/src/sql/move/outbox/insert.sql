INSERT INTO outbox SELECT * FROM arriving_outbox;
