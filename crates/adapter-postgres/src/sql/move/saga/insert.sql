INSERT INTO saga SELECT * FROM arriving_saga;
