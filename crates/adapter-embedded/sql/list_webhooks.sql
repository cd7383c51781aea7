SELECT id, payer_kind, tenant, url, secret, created_at FROM webhook WHERE tenant = ?2 AND payer_kind = ?1 ORDER BY created_at, id
