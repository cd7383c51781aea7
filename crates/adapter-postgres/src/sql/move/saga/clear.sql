DELETE FROM saga AS t USING outbox_shard AS s WHERE s.shard = t.shard AND NOT s.home AND t.shard = ANY ($1);
