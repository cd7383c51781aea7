SELECT *
FROM charge
WHERE shard = ?10
    AND tenant = ?1
    AND payer_kind = ?2
    AND (?3 IS NULL OR user_id = ?3)
    AND (?4 IS NULL OR provider = ?4)
    AND created_at >= ?5
    AND created_at < ?6
    AND (created_at, id) < (?7, ?8)
ORDER BY created_at DESC, id DESC
LIMIT ?9
