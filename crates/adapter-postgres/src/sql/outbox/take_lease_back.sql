-- After a restore, whose owner may hold a number that was forgotten: the next one is far above. Everything up to $2 is in the log.
UPDATE outbox_lease
SET published_through = GREATEST(published_through, $2), owner = NULL, lease_until = '-infinity', fencing = ((fencing >> 32) + 1) << 32
WHERE shard = $1;
