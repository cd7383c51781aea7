-- Far enough that a day without any upkeep goes unnoticed.
SELECT add_partitions('idempotency', 1, today, today + 3), add_partitions('answer', 1, today, today + 3),
       add_partitions('outbox', 7, today, today + 7)
FROM (SELECT (now() AT TIME ZONE 'UTC')::date) AS t (today);
