INSERT INTO floor_outbox (payload) VALUES ($1);
