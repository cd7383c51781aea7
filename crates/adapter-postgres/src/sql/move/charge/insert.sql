INSERT INTO charge SELECT * FROM arriving_charge;
