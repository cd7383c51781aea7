INSERT INTO moving (shard, after) SELECT * FROM unnest($1::smallint[], $2::bigint[]);
