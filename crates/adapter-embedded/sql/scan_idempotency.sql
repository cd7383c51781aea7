SELECT scope, key, charge_id, outcome
FROM idempotency
WHERE charge_id IS NOT NULL AND (scope, key) > (?1, ?2)
ORDER BY scope, key
LIMIT ?3
