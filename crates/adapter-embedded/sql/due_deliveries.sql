SELECT
    webhook.id, webhook.payer_kind, webhook.tenant, webhook.url, webhook.secret, webhook.created_at,
    delivery.event_id, delivery.body, delivery.created_at AS queued_at, delivery.status, delivery.attempts, delivery.due_at,
    delivery.answered, delivery.error
FROM webhook_delivery AS delivery
JOIN webhook ON webhook.id = delivery.webhook_id
WHERE delivery.status = 'PENDING' AND delivery.due_at <= ?1
ORDER BY delivery.due_at
LIMIT ?2
