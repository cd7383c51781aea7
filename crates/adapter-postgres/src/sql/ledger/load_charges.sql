SELECT c.*
FROM unnest($1::smallint[], $2::uuid[]) AS wanted (shard, id)
JOIN charge AS c ON c.shard = wanted.shard AND c.id = wanted.id;
