-- Held to the end of the transaction.
SELECT pg_advisory_xact_lock(hashtextextended('weir partitions', 0));
