-- The balances of the shards, and how far their events go: the same on both sides, or something was lost.
SELECT (SELECT count(*) FROM pool AS p WHERE p.shard = ANY ($1)),
       (SELECT coalesce(sum(hashtextextended(p::text, 0)), 0)::text FROM pool AS p WHERE p.shard = ANY ($1)),
       (SELECT coalesce(sum(hashtextextended(p::text, 0)), 0)::text FROM pool_period AS p WHERE p.shard = ANY ($1)),
       (SELECT coalesce(sum(hashtextextended(b::text, 0)), 0)::text FROM budget AS b WHERE b.shard = ANY ($1)),
       (SELECT coalesce(sum(hashtextextended(s::text, 0)), 0)::text FROM saga AS s WHERE s.shard = ANY ($1)),
       (SELECT coalesce(sum((SELECT max(o.seq) FROM outbox AS o WHERE o.shard = s.shard)), 0)::text
        FROM unnest($1::smallint[]) AS s (shard));
