SELECT * FROM pool_period WHERE shard = ?1 ORDER BY payer_kind DESC, tenant, provider, starts_at
