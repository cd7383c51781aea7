UPDATE webhook_delivery SET due_at = ?3 WHERE webhook_id = ?1 AND event_id = ?2
