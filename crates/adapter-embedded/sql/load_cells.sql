SELECT
    coalesce(cell.tokens, 0) AS tokens, coalesce(cell.requests, 0) AS requests, coalesce(cell.denied, 0) AS denied,
    coalesce(cell.refunded, 0) AS refunded, coalesce(cell.cost_minor_units, 0) AS cost_minor_units,
    coalesce(cell.last_seq, 0) AS last_seq
FROM jsonb_each(?2) AS wanted
LEFT JOIN rollup AS cell
    ON cell.generation = ?1
    AND cell.scope = wanted.value ->> 'scope'
    AND cell.grain = wanted.value ->> 'grain'
    AND cell.bucket = wanted.value ->> 'bucket'
    AND cell.dimension = wanted.value ->> 'dimension'
    AND cell.shard = wanted.value ->> 'shard'
ORDER BY wanted.key
