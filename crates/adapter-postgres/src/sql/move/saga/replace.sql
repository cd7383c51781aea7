DELETE FROM saga AS s USING arriving_saga AS t WHERE t.shard = s.shard AND t.id = s.id;
