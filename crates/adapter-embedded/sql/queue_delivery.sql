INSERT INTO webhook_delivery (webhook_id, event_id, body, created_at, status, attempts, due_at)
SELECT id, ?3, ?4, ?5, 'PENDING', 0, ?5 FROM webhook WHERE payer_kind = ?1 AND tenant = ?2 AND created_at <= ?5
ON CONFLICT (webhook_id, event_id) DO NOTHING
