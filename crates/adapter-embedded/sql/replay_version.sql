SELECT version FROM replay WHERE id = ?1
