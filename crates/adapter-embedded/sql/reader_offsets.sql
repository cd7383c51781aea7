SELECT shard, next_offset FROM reader_offset WHERE reader_group = ?1
