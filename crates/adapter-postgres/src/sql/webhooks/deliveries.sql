SELECT d.webhook_id, d.event_id, d.body, d.created_at, d.status, d.attempts, d.due_at, d.answered, d.error
FROM webhook_delivery AS d JOIN webhook AS w ON w.id = d.webhook_id
WHERE w.payer_is_org = $1 AND w.payer_id = $2 AND w.id = $3
ORDER BY d.created_at DESC, d.event_id DESC LIMIT $4;
