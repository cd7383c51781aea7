-- The same charge each time, so that the opposite amount mends it.
UPDATE charge SET settled = settled + $1, from_purchased = from_purchased + $1
 WHERE (shard, id) = (SELECT shard, id FROM charge WHERE status = 'SETTLED' ORDER BY shard, id LIMIT 1);
