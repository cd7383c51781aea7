SELECT state FROM saga WHERE id = ?1
