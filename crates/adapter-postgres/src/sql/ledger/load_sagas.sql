SELECT s.state FROM unnest($1::smallint[], $2::uuid[]) AS wanted (shard, id) JOIN saga AS s ON s.shard = wanted.shard AND s.id = wanted.id;
