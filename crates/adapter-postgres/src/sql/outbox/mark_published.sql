-- Answers the shards whose lease is the current one. Locked in ascending order; raised, never lowered.
WITH mark AS (
    SELECT * FROM unnest($1::smallint[], $2::bigint[], $3::bigint[]) AS m (shard, fencing, through)
), held AS (
    SELECT l.shard, m.through
    FROM outbox_lease AS l JOIN mark AS m ON m.shard = l.shard AND m.fencing = l.fencing
    ORDER BY l.shard
    FOR UPDATE OF l
), raised AS (
    UPDATE outbox_lease AS l SET published_through = h.through
    FROM held AS h
    WHERE l.shard = h.shard AND l.published_through < h.through
)
SELECT shard FROM held;
