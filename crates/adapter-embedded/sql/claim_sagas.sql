UPDATE saga SET due_at = ?1 + ?2, claim = claim + 1
WHERE id IN (SELECT id FROM saga WHERE due_at <= ?1 ORDER BY due_at LIMIT ?3)
RETURNING state, claim
