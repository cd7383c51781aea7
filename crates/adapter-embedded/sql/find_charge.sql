SELECT * FROM charge WHERE id = ?1
