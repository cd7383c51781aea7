SELECT
    delivery.webhook_id, delivery.event_id, delivery.body, delivery.created_at, delivery.status, delivery.attempts, delivery.due_at,
    delivery.answered, delivery.error
FROM webhook_delivery AS delivery
JOIN webhook ON webhook.id = delivery.webhook_id
WHERE webhook.payer_kind = ?1 AND webhook.tenant = ?2 AND webhook.id = ?3
ORDER BY delivery.created_at DESC, delivery.event_id DESC
LIMIT ?4
