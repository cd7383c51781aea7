SELECT *
FROM pool
WHERE payer_kind = ?1
    AND tenant = ?2
    AND (?3 IS NULL OR provider = ?3)
    -- Users come before orgs.
    AND (?4 IS NULL OR payer_kind < ?4 OR (payer_kind = ?4 AND (tenant, provider) > (?5, ?6)))
ORDER BY provider
LIMIT ?7
