-- For rows of the days from $1 (events) and $2 (answers) to today.
SELECT add_partitions('outbox', 7, coalesce($1, today), today), add_partitions('idempotency', 1, coalesce($2, today), today)
FROM (SELECT (now() AT TIME ZONE 'UTC')::date) AS t (today);
