INSERT INTO budget SELECT * FROM arriving_budget;
