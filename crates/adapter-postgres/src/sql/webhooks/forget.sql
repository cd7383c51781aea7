DELETE FROM webhook_delivery WHERE status <> 'PENDING' AND created_at < $1;
