SELECT id, name, created_at
FROM org
-- ?3 is the user of list_orgs_of_user.sql, NULL here.
WHERE id > coalesce(?1, x'') AND ?3 IS NULL
ORDER BY id
LIMIT ?2
