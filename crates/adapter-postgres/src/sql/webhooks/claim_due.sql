UPDATE webhook_delivery AS d SET due_at = $2
FROM webhook AS w
WHERE w.id = d.webhook_id AND (d.webhook_id, d.event_id) IN (
    SELECT webhook_id, event_id FROM webhook_delivery WHERE status = 'PENDING' AND due_at <= $1 ORDER BY due_at LIMIT $3
    FOR UPDATE SKIP LOCKED
)
RETURNING w.id, w.payer_is_org, w.payer_id, w.url, w.secret, w.created_at,
          d.event_id, d.body, d.created_at AS queued_at, d.status, d.attempts, d.due_at, d.answered, d.error;
