-- The log is the outbox: its record is mended where it stands, and only with the event that was numbered so.
UPDATE outbox SET payload = ?3 WHERE shard = ?1 AND seq = ?2 AND event_id = ?4
