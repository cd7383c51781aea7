SELECT * FROM pool WHERE payer_kind = ?1 AND tenant = ?2 AND provider = ?3
