-- Locked: nobody claims a saga while it is moved.
SELECT s.state, s.claim FROM unnest($1::smallint[], $2::uuid[]) AS wanted (shard, id)
JOIN saga AS s ON s.shard = wanted.shard AND s.id = wanted.id
ORDER BY s.shard, s.id FOR UPDATE OF s;
