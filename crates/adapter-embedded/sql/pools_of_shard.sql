SELECT * FROM pool WHERE shard = ?1 ORDER BY payer_kind DESC, tenant, provider
