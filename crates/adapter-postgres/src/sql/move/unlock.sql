SELECT pg_advisory_unlock(hashtextextended('weir move', 0));
