DELETE FROM idempotency AS i USING arriving_idempotency AS a WHERE a.name = i.name AND a.day = i.day;
