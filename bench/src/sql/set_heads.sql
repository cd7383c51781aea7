UPDATE outbox_shard AS s SET last_seq = n.last_seq
FROM unnest($1::smallint[], $2::bigint[]) AS n (shard, last_seq)
WHERE s.shard = n.shard;
