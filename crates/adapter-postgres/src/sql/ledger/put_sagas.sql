INSERT INTO saga (shard, id, ended, due_at, state)
SELECT n.shard, n.id, n.ended, CASE WHEN n.due THEN clock_timestamp() END, n.state
FROM unnest($1::smallint[], $2::uuid[], $3::boolean[], $4::boolean[], $5::text[]) AS n (shard, id, ended, due, state)
ON CONFLICT (shard, id) DO UPDATE SET
    ended = excluded.ended, state = excluded.state, due_at = CASE WHEN NOT excluded.ended THEN coalesce(excluded.due_at, saga.due_at) END;
