INSERT INTO touched_charge SELECT c.shard, c.id FROM charge AS c JOIN moving AS m ON m.shard = c.shard;
