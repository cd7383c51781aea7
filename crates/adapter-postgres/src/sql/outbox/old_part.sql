-- The oldest partition, if it ended on or before $1: when it ended, and of each shard its newest number in there.
WITH part AS MATERIALIZED (
    SELECT substring(bounds FROM $re$FROM \('([0-9-]+)'\)$re$)::date AS starts,
           substring(bounds FROM $re$TO \('([0-9-]+)'\)$re$)::date AS ends
    FROM (SELECT pg_get_expr(c.relpartbound, c.oid)
          FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
          WHERE i.inhparent = 'outbox'::regclass) AS b (bounds)
    ORDER BY 1
    LIMIT 1
)
SELECT p.ends, s.shard, s.home, h.archived_through,
       (SELECT max(o.seq) FROM outbox AS o WHERE o.shard = s.shard AND o.day >= p.starts AND o.day < p.ends) AS last_seq
FROM part AS p CROSS JOIN outbox_shard AS s JOIN outbox_history AS h USING (shard)
WHERE p.ends <= $1
ORDER BY s.shard;
