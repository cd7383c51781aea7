DELETE FROM webhook WHERE id = ?3 AND tenant = ?2 AND payer_kind = ?1
