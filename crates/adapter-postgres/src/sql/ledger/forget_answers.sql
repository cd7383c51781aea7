SELECT drop_partitions('idempotency', $1);
