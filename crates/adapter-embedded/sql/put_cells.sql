INSERT INTO rollup (
    generation, scope, grain, bucket, dimension, shard, tokens, requests, denied, refunded, cost_minor_units, last_seq
)
SELECT
    ?1, value ->> 'scope', value ->> 'grain', value ->> 'bucket', value ->> 'dimension', value ->> 'shard', value ->> 'tokens',
    value ->> 'requests', value ->> 'denied', value ->> 'refunded', value ->> 'cost_minor_units', value ->> 'last_seq'
FROM jsonb_each(?2)
-- WHERE true: otherwise ON would be read as part of a join.
WHERE true
ON CONFLICT (generation, scope, grain, bucket, dimension, shard) DO UPDATE SET
    tokens = excluded.tokens, requests = excluded.requests, denied = excluded.denied, refunded = excluded.refunded,
    cost_minor_units = excluded.cost_minor_units, last_seq = excluded.last_seq
-- The larger number wins: a late, repeated or foreign write changes nothing.
WHERE excluded.last_seq > last_seq
