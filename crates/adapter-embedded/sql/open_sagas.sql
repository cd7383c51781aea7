SELECT state, claim FROM saga WHERE NOT ended AND id > ?1 ORDER BY id LIMIT ?2
