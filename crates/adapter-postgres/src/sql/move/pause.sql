-- From the commit on nobody writes to these shards here; who is writing ends first. Locked in ascending order.
WITH locked AS (
    SELECT shard FROM outbox_shard WHERE shard = ANY ($1) ORDER BY shard FOR UPDATE
)
UPDATE outbox_shard AS s SET home = false FROM locked AS l WHERE s.shard = l.shard;
