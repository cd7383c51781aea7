INSERT INTO dead_letter (shard, log_offset, seq, reason, value, buried_at, last_buried_at)
SELECT
    value ->> 'shard', value ->> 'log_offset', value ->> 'seq', value ->> 'reason', unhex(value ->> 'value'), value ->> 'buried_at',
    value ->> 'buried_at'
FROM jsonb_each(?1)
-- WHERE true: otherwise ON would be read as part of a join.
WHERE true
ON CONFLICT (shard, log_offset) DO UPDATE SET last_buried_at = excluded.last_buried_at
