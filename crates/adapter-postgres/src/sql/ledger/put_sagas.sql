INSERT INTO saga (shard, id, ended, state)
SELECT * FROM unnest($1::smallint[], $2::uuid[], $3::boolean[], $4::text[])
ON CONFLICT (shard, id) DO UPDATE SET ended = excluded.ended, state = excluded.state;
