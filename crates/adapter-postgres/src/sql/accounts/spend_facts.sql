SELECT u.tier AS user_tier, o.tier AS org_tier, o.id IS NOT NULL AS org_exists, m.role
FROM (VALUES (true)) AS one (row)
LEFT JOIN app_user AS u ON u.id = $1
LEFT JOIN org AS o ON o.id = $2
LEFT JOIN member AS m ON m.org_id = o.id AND m.user_id = $1;
