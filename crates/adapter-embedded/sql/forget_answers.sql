DELETE FROM answer WHERE created_at < ?1;
