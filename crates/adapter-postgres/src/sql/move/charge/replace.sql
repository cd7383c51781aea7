DELETE FROM charge AS c USING arriving_charge AS a WHERE a.shard = c.shard AND a.id = c.id;
