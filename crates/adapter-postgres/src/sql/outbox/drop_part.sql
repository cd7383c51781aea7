-- Drops the partition that ends on $1, with all that is older; there is none.
SELECT drop_partitions('outbox', $1);
