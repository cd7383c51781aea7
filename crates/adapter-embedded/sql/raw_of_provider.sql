SELECT payload
FROM raw_event
WHERE provider = ?1 AND occurred_at >= ?2 AND occurred_at < ?3
ORDER BY occurred_at DESC, event_id DESC
LIMIT ?4
