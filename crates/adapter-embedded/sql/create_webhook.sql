INSERT INTO webhook (id, payer_kind, tenant, url, secret, created_at)
SELECT ?1, ?2, ?3, ?4, ?5, ?6
WHERE (SELECT count(*) FROM webhook WHERE tenant = ?3 AND payer_kind = ?2) < ?7
