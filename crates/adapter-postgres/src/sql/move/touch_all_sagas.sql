INSERT INTO touched_saga SELECT s.shard, s.id FROM saga AS s JOIN moving AS m ON m.shard = s.shard;
