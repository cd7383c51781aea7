INSERT INTO raw_event (tenant, occurred_at, event_id, shard, provider, payload)
SELECT
    unhex(value ->> 'tenant', '-'), value ->> 'occurred_at', unhex(value ->> 'event_id', '-'), value ->> 'shard',
    value ->> 'provider', unhex(value ->> 'payload')
FROM jsonb_each(?1)
-- WHERE true: otherwise ON would be read as part of a join.
WHERE true
ON CONFLICT (tenant, occurred_at, event_id) DO UPDATE SET payload = excluded.payload
