SELECT state, claim FROM saga WHERE id = ?1
