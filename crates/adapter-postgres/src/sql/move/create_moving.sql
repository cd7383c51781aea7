-- The shards on the way, and up to which number their events were copied.
CREATE TEMPORARY TABLE moving (shard smallint PRIMARY KEY, after bigint NOT NULL) ON COMMIT DROP;
