INSERT INTO member (org_id, user_id, role) VALUES (?1, ?2, ?3)
ON CONFLICT (org_id, user_id) DO UPDATE SET role = excluded.role WHERE role <> excluded.role
