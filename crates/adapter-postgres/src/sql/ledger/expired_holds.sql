-- Shown to one sweeper at a time: whoever has the lease keeps it by asking.
WITH lease AS (
    UPDATE sweep_lease SET sweeper = $3, until = clock_timestamp() + make_interval(secs => $4)
    WHERE sweeper = $3 OR until <= clock_timestamp()
    RETURNING sweeper
)
SELECT c.expires_at, c.id
FROM charge AS c JOIN outbox_shard AS s ON s.shard = c.shard AND s.home
WHERE c.status = 'HELD' AND c.expires_at <= $1 AND EXISTS (SELECT FROM lease)
ORDER BY c.expires_at, c.id
LIMIT $2;
