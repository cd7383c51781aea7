CREATE TEMPORARY TABLE touched_charge (shard smallint, id uuid, PRIMARY KEY (shard, id)) ON COMMIT DROP;
