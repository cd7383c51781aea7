UPDATE webhook_delivery SET status = 'PENDING', attempts = 0, due_at = ?5
WHERE webhook_id = ?3 AND event_id = ?4 AND EXISTS (SELECT 1 FROM webhook WHERE id = ?3 AND payer_kind = ?1 AND tenant = ?2)
