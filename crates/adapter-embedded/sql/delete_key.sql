DELETE FROM api_key WHERE user_id = ?1 AND id = ?2
