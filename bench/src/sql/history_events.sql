-- Rows of the outbox behind what each shard has: $1 events in a row, $3 rows in a shard.
INSERT INTO outbox (day, shard, count, seq, events)
SELECT (now() AT TIME ZONE 'UTC')::date, s.shard, $1, s.last_seq + g * $1, $2
FROM outbox_shard AS s, generate_series(1, $3::bigint) AS g;
