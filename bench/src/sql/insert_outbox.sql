INSERT INTO outbox (day, shard, count, seq, events)
SELECT (now() AT TIME ZONE 'UTC')::date, n.* FROM unnest($1::smallint[], $2::smallint[], $3::bigint[], $4::bytea[]) AS n (shard, count, seq, events);
