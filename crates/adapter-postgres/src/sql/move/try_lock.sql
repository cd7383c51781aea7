-- One move at a time; held by the connection.
SELECT pg_try_advisory_lock(hashtextextended('weir move', 0));
