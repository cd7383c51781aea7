UPDATE outbox_shard SET epoch = epoch + 1 WHERE shard = $1;
