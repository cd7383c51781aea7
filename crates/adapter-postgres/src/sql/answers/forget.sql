SELECT drop_partitions('answer', $1);
