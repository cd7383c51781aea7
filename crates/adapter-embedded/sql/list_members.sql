SELECT user_id, role FROM member WHERE org_id = ?1 AND user_id > coalesce(?2, x'') ORDER BY user_id LIMIT ?3
