DELETE FROM answer WHERE name = $1 AND holder = $2 AND body IS NULL;
