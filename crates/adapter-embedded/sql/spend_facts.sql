SELECT
    (SELECT tier FROM app_user WHERE id = ?1),
    (SELECT tier FROM org WHERE id = ?2),
    EXISTS (SELECT 1 FROM org WHERE id = ?2),
    (SELECT role FROM member WHERE org_id = ?2 AND user_id = ?1)
