SELECT id, started_at_micros FROM generation WHERE live = 1
