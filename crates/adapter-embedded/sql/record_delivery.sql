UPDATE webhook_delivery SET status = ?3, attempts = ?4, due_at = ?5, answered = ?6, error = ?7 WHERE webhook_id = ?1 AND event_id = ?2
