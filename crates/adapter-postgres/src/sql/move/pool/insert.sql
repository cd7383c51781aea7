INSERT INTO pool SELECT * FROM arriving_pool;
