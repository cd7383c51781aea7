INSERT INTO reader_offset (reader_group, shard, next_offset)
SELECT ?1, value ->> 'shard', value ->> 'next_offset'
FROM jsonb_each(?2)
-- WHERE true: otherwise ON would be read as part of a join.
WHERE true
ON CONFLICT (reader_group, shard) DO UPDATE SET next_offset = excluded.next_offset
