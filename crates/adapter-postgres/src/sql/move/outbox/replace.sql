DELETE FROM outbox AS o USING arriving_outbox AS a WHERE a.shard = o.shard AND a.seq = o.seq AND a.day = o.day;
