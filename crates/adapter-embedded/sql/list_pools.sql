SELECT *
FROM pool
WHERE payer_kind = ?2 AND (tenant, provider) > (?3, ?4) AND (?1 IS NULL OR provider = ?1)
UNION ALL
SELECT *
FROM pool
-- Users come before orgs; without a pool to start after, both do.
WHERE payer_kind < coalesce(?2, '~') AND (?1 IS NULL OR provider = ?1)
ORDER BY payer_kind DESC, tenant, provider
LIMIT ?5
