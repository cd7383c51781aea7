INSERT INTO saga (id, shard, ended, state)
SELECT unhex(value ->> 'id', '-'), value ->> 'shard', value ->> 'ended', value ->> 'state'
FROM jsonb_each(?1)
-- WHERE true: otherwise ON would be read as part of a join.
WHERE true
ON CONFLICT (id) DO UPDATE SET ended = excluded.ended, state = excluded.state
