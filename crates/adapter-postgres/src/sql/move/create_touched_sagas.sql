CREATE TEMPORARY TABLE touched_saga (shard smallint, id uuid, PRIMARY KEY (shard, id)) ON COMMIT DROP;
