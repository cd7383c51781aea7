UPDATE answer SET body = $3 WHERE name = $1 AND holder = $2 AND body IS NULL;
