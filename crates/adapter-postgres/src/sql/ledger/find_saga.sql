SELECT state FROM saga WHERE shard = $1 AND id = $2;
