INSERT INTO outbox (shard, seq, epoch, event_id, kind, tenant, occurred_at, recorded_at, trace_parent, seen, payload)
SELECT
    value ->> 'shard', value ->> 'seq', value ->> 'epoch', unhex(value ->> 'event_id', '-'), value ->> 'kind',
    unhex(value ->> 'tenant', '-'), value ->> 'occurred_at', value ->> 'recorded_at', value ->> 'trace_parent',
    unhex(value ->> 'seen'), unhex(value ->> 'payload')
FROM jsonb_each(?1)
