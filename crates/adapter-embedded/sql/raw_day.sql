SELECT event_id, payload FROM raw_event WHERE tenant = ?1 AND occurred_at >= ?2 AND occurred_at < ?3 AND shard = ?4
