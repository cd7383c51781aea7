UPDATE answer SET lease_until = $3 WHERE name = $1 AND holder = $2 AND body IS NULL;
