INSERT INTO pool_period SELECT * FROM arriving_pool_period;
