UPDATE outbox_shard
SET owner = unhex(lease.value ->> 'owner', '-'), lease_until = lease.value ->> 'lease_until', fencing = lease.value ->> 'fencing'
FROM jsonb_each(?1) AS lease
WHERE outbox_shard.shard = lease.value ->> 'shard'
