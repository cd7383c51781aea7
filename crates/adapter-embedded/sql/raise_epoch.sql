-- After a restore: whoever knew the shard before knows another epoch, and no lease of then has the number of one of now.
UPDATE outbox_shard
SET epoch = epoch + 1, published_through = max(published_through, ?2), owner = NULL, lease_until = 0, fencing = ((fencing >> 32) + 1) << 32
WHERE shard = ?1
