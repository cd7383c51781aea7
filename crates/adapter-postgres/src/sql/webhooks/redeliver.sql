UPDATE webhook_delivery SET status = 'PENDING', attempts = 0, due_at = $5
WHERE webhook_id = $3 AND event_id = $4 AND EXISTS (SELECT FROM webhook WHERE id = $3 AND payer_is_org = $1 AND payer_id = $2);
