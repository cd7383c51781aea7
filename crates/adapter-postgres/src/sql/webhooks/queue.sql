INSERT INTO webhook_delivery (webhook_id, event_id, body, created_at, status, attempts, due_at)
SELECT w.id, n.event_id, n.body, n.at, 'PENDING', 0, n.at
FROM unnest($1::boolean[], $2::uuid[], $3::uuid[], $4::text[], $5::timestamptz[]) AS n (payer_is_org, payer_id, event_id, body, at)
JOIN webhook AS w ON w.payer_id = n.payer_id AND w.payer_is_org = n.payer_is_org AND w.created_at <= n.at
ON CONFLICT (webhook_id, event_id) DO NOTHING;
