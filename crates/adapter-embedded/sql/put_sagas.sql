INSERT INTO saga (id, shard, ended, due_at, state)
SELECT unhex(value ->> 'id', '-'), value ->> 'shard', value ->> 'ended', value ->> 'due_at', value ->> 'state'
FROM jsonb_each(?1)
-- WHERE true: otherwise ON would be read as part of a join.
WHERE true
ON CONFLICT (id) DO UPDATE SET
    ended = excluded.ended, state = excluded.state, due_at = iif(excluded.ended, NULL, coalesce(excluded.due_at, saga.due_at))
